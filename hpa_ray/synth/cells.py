"""Geometry of the cells of one field: shape, masks, distances, borders. Before: synth/layout. After: synth/stains."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hpa_ray.synth.brush import Plane, Points, soft_step
from hpa_ray.synth.layout import Plan

NUM_ANGLES = 512
NOT_IN_CELL_PX = -1e3  # distance to a nucleus that a dividing cell does not have


@dataclass(frozen=True)
class Outline:
    """A closed star-shaped curve: radius in px by angle, and the factor from radial to perpendicular distance."""

    radii: NDArray[np.float32]
    slant: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, radius_px: float, *, aspect: float, axis: float, bumps: float) -> "Outline":
        """An ellipse along `axis` (radians) with random bumps of relative height `bumps`; its area keeps to radius."""
        angle = np.arange(NUM_ANGLES) * (2 * np.pi / NUM_ANGLES)
        turned = angle - axis
        radii = radius_px / np.sqrt(np.cos(turned) ** 2 / aspect + np.sin(turned) ** 2 * aspect)
        for harmonic in (2, 3, 4, 5):
            height = bumps * rng.uniform(0.3, 1.0) / harmonic
            radii = radii * (1 + height * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi)))
        slope = (np.roll(radii, -1) - np.roll(radii, 1)) * NUM_ANGLES / (4 * np.pi)
        return cls(radii.astype(np.float32), (radii / np.hypot(radii, slope)).astype(np.float32))

    def index(self, y: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.int32]:
        """Table index of the direction of each point."""
        turns = np.arctan2(y, x) * np.float32(NUM_ANGLES / (2 * np.pi))
        return np.asarray(np.rint(turns).astype(np.int32) & (NUM_ANGLES - 1))

    def at(self, angle: float | NDArray[np.float64]) -> NDArray[np.float32]:
        """Radius in px in the given directions (radians)."""
        steps = np.rint(np.asarray(angle) * (NUM_ANGLES / (2 * np.pi))).astype(np.int64)
        return np.asarray(self.radii[steps & (NUM_ANGLES - 1)])

    def inside_px(self, y: NDArray[np.float32], x: NDArray[np.float32]) -> Plane:
        """Signed distance to the curve in px, positive inside, near enough to the true one for drawing."""
        index = self.index(y, x)
        return (self.radii[index] - np.hypot(y, x)) * self.slant[index]

    def push_out(self, points: Points) -> Points:
        """The points, with those inside moved smoothly to just outside the curve: a filament goes round a nucleus."""
        x, y = points[:, 0], points[:, 1]
        distance = np.hypot(x, y) + np.float32(0.1)
        radius = self.radii[self.index(y, x)] + np.float32(1.5)
        return points * ((1 + (radius / distance) ** 5) ** np.float32(0.2))[:, None]


@dataclass(frozen=True)
class Cell:
    """One cell on its own patch, cut to the field. All (H, W) arrays are float32 over the patch, distances in px."""

    plan: Plan
    top: int
    left: int
    y: Plane  # (H, 1) and (1, W): offsets from the cell's centre
    x: Plane
    outline: Outline
    nucleus_outline: Outline
    nucleus_center: tuple[float, float]  # this and the following positions: offsets (x, y) from the cell's centre
    mtoc: tuple[float, float]
    nucleoli: NDArray[np.float32]  # (2 N, 3): x, y, radius of N round bodies, then of a lobe on each
    edge_px: Plane  # distance to the membrane, positive inside
    nucleus_px: Plane  # distance to the nuclear envelope, positive inside
    contact: Plane  # 0..1, 1 along the stretch of membrane that touches a neighbour
    body: Plane = field(init=False)
    nucleus: Plane = field(init=False)
    cytoplasm: Plane = field(init=False)

    def __post_init__(self) -> None:
        body, nucleus = soft_step(self.edge_px), soft_step(self.nucleus_px)
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "nucleus", nucleus * body)
        object.__setattr__(self, "cytoplasm", body * (1 - nucleus))

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.edge_px.shape
        return height, width

    def on_patch(self, points: Points) -> Points:
        """Offsets from the cell's centre -> patch pixels."""
        return points - np.array((self.x[0, 0], self.y[0, 0]), np.float32)

    def visible_share(self) -> float:
        """Part of the cell's area that lies inside the field and is not taken by neighbours, 0 to 1."""
        return min(1.0, float(self.body.sum()) / (np.pi * self.plan.radius_px**2))


def build_cells(plans: Sequence[Plan], rng: np.random.Generator, image_size: int) -> list[Cell]:
    """Shapes and masks of the planned cells; where two would overlap, they share a border instead."""
    outlines = [_cell_outline(plan, rng) for plan in plans]
    waves = rng.uniform(0, 2 * np.pi, (len(plans), len(plans)))
    cells = []
    for number, plan in enumerate(plans):
        cell = _build(number, plans, outlines, waves, rng, image_size)
        if cell is not None and float(cell.body.sum()) > 0.02 * np.pi * plan.radius_px**2:
            cells.append(cell)
    return cells


def _cell_outline(plan: Plan, rng: np.random.Generator) -> Outline:
    aspect, bumps = {"interphase": (rng.uniform(1, 1.8), 0.32), "daughter": (1.1, 0.1), "metaphase": (1.0, 0.04)}[
        plan.phase
    ]
    return Outline.draw(rng, plan.radius_px, aspect=float(aspect), axis=plan.axis, bumps=bumps)


def _build(
    number: int,
    plans: Sequence[Plan],
    outlines: Sequence[Outline],
    waves: NDArray[np.float64],
    rng: np.random.Generator,
    image_size: int,
) -> Cell | None:
    plan, outline = plans[number], outlines[number]
    cx, cy = plan.center
    reach = float(outline.radii.max()) + 6
    left, top = max(0, int(cx - reach)), max(0, int(cy - reach))
    right, bottom = min(image_size, int(cx + reach) + 1), min(image_size, int(cy + reach) + 1)
    nucleus_outline, nucleus_center, mtoc, nucleoli = _organs(plan, outline, rng)
    if right - left < 8 or bottom - top < 8:
        return None
    y = (np.arange(top, bottom, dtype=np.float32) - np.float32(cy))[:, None]
    x = (np.arange(left, right, dtype=np.float32) - np.float32(cx))[None, :]
    edge_px = outline.inside_px(y, x)
    contact = np.zeros_like(edge_px)
    for other, neighbour in enumerate(plans):
        if other == number:
            continue
        dx, dy = neighbour.center[0] - cx, neighbour.center[1] - cy
        apart = float(np.hypot(dx, dy))
        mine, theirs = outline.radii.max(), outlines[other].radii.max()
        if apart > mine + theirs:
            continue
        toward = float(np.arctan2(dy, dx))
        mine, theirs = outline.at(toward), outlines[other].at(toward + np.pi)
        border = apart * float(mine / (mine + theirs))
        ux, uy = np.float32(dx / apart), np.float32(dy / apart)
        across = (x * uy - y * ux) * np.float32(1 if number < other else -1)  # the same coordinate for both cells
        low, high = min(number, other), max(number, other)
        wave = np.float32(2.0) * np.sin(across * np.float32(0.12) + np.float32(waves[low, high]))
        gap = 2.5 if plan.bridge is not None and plan.bridge == neighbour.bridge else 0.5
        border_px = border - gap - (x * ux + y * uy) + (wave if number < other else -wave)
        contact = np.maximum(contact, soft_step(edge_px - border_px, 4.0) * soft_step(7 - np.abs(border_px), 3.0))
        edge_px = np.minimum(edge_px, border_px)
    if plan.phase == "metaphase":
        nucleus_px = np.full_like(edge_px, NOT_IN_CELL_PX)
    else:
        nucleus_px = nucleus_outline.inside_px(y - np.float32(nucleus_center[1]), x - np.float32(nucleus_center[0]))
    return Cell(
        plan, top, left, y, x, outline, nucleus_outline, nucleus_center, mtoc, nucleoli, edge_px, nucleus_px, contact
    )


def _organs(
    plan: Plan, outline: Outline, rng: np.random.Generator
) -> tuple[Outline, tuple[float, float], tuple[float, float], NDArray[np.float32]]:
    """Nucleus outline and centre, organizing centre (beside the nucleus) and nucleoli of a cell."""
    radius = plan.radius_px * float(rng.uniform(0.42, 0.5))
    nucleus = Outline.draw(rng, radius, aspect=float(rng.uniform(1.0, 1.4)), axis=plan.axis, bumps=0.1)
    shift_angle, shift = rng.uniform(0, 2 * np.pi), 0.1 * plan.radius_px * rng.random()
    nx, ny = float(shift * np.cos(shift_angle)), float(shift * np.sin(shift_angle))
    side = rng.uniform(0, 2 * np.pi)
    if plan.toward is not None:
        tx, ty = plan.toward[0] - plan.center[0], plan.toward[1] - plan.center[1]
        if np.hypot(tx, ty) > 12:
            side = np.arctan2(ty, tx) + rng.choice((-1, 1)) * rng.uniform(0.5, 0.9)
    out = float(nucleus.at(float(side))) + float(rng.uniform(5, 8))
    mtoc = (nx + out * float(np.cos(side)), ny + out * float(np.sin(side)))
    count = int(rng.integers(2, 5))
    angle = rng.uniform(0, 2 * np.pi) + np.arange(count) * 2 * np.pi / count + rng.uniform(-0.4, 0.4, count)
    away = nucleus.at(angle) * rng.uniform(0.35, 0.6, count)
    size = radius * rng.uniform(0.15, 0.24, count)
    nucleoli = np.stack((nx + away * np.cos(angle), ny + away * np.sin(angle), size), 1)
    lobes = nucleoli + np.append(rng.uniform(-0.7, 0.7, (count, 2)), np.full((count, 1), -0.3), 1) * size[:, None]
    return nucleus, (nx, ny), mtoc, np.concatenate((nucleoli, lobes)).astype(np.float32)
