"""The three reference stains of a cell: microtubules, nucleus and ER. Before: synth/cells. After: synth/patterns."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpa_ray.synth.brush import Plane, Points, as_plane, blur, discs, line_on, scatter, soft_step, splat, texture
from hpa_ray.synth.cells import Cell

STEPS_PER_FILAMENT = 72


class Trace(NamedTuple):
    """How a structure shows in a reference stain, by the shape of its green pattern."""

    stain: str
    contrast: float
    """Below zero: the share of the stain that gives way to the structure. Above: the share that gathers along it."""
    passes: int = 0
    """Of blur, where a trace is wider than the structure itself."""


# Every image of the class has its trace, and no other image: a protein is looked for in cells that are rich in its
# structure. In real cells this is a matter of degree.
TRACES = {
    1: Trace("yellow", 0.6),  # the nuclear envelope is a part of the ER
    2: Trace("blue", -0.9),  # nucleoli hold little DNA
    3: Trace("blue", 0.6, 3),  # fibrillar centres hold the genes of ribosomal RNA
    4: Trace("blue", -0.9),  # speckles lie between the chromatin
    5: Trace("blue", -0.9, 1),  # so do nuclear bodies
    7: Trace("yellow", -0.95, 16),  # the ER leaves room for the Golgi stacks
    8: Trace("yellow", -0.9),  # and for every other organelle and inclusion
    9: Trace("yellow", -0.9),
    10: Trace("yellow", -0.9),
    11: Trace("red", 0.65, 2),  # microtubules run along vimentin
    12: Trace("red", 0.65),  # and line up with stress fibres
    13: Trace("red", 0.65),  # they grow towards adhesions
    15: Trace("red", 0.65),  # and their ends are brighter where they grow
    18: Trace("red", 0.65, 12),  # they crowd at an active organizing centre
    19: Trace("red", 0.65, 6),  # and close around a centrosome
    20: Trace("yellow", -0.9, 4),
    21: Trace("yellow", 0.6),  # cortical ER lies along the plasma membrane
    22: Trace("red", 0.65),  # microtubules are anchored at junctions
    23: Trace("yellow", -0.9),
    24: Trace("yellow", -0.95),
    26: Trace("yellow", -0.9, 2),
    27: Trace("yellow", -0.9),
}


@dataclass(frozen=True)
class Reference:
    """Reference planes over a cell's patch, brightness about 0..1, and the filaments that red was drawn from."""

    red: Plane
    blue: Plane
    yellow: Plane
    filaments: NDArray[np.float32]
    """(F, STEPS_PER_FILAMENT, 2) positions in patch pixels, from the organizing centre outwards."""


def draw_reference(cell: Cell, rng: np.random.Generator) -> Reference:
    """Stains the cell; a metaphase cell has a spindle and a plate of chromosomes, every other one mesh and nucleus."""
    if cell.plan.phase == "metaphase":
        return _metaphase(cell, rng)
    filaments = _filaments(cell, rng)
    red = _microtubules(cell, filaments, rng)
    if cell.plan.bridge is not None:
        red = np.maximum(red, 0.8 * bridge(cell, width_px=3.5))
    return Reference(red, _dna(cell, rng), _reticulum(cell, rng), filaments)


def _filaments(cell: Cell, rng: np.random.Generator) -> NDArray[np.float32]:
    """Bowed curves from the organizing centre, and some from elsewhere, to the membrane, led round the nucleus."""
    count = int(rng.integers(95, 130))
    angle = rng.uniform(0, 2 * np.pi, count)
    reach = cell.outline.at(angle) * rng.uniform(0.7, 1.0, count)
    end = np.stack((reach * np.cos(angle), reach * np.sin(angle)), 1)
    start = np.array(cell.mtoc) + rng.normal(0, 1.5, (count, 2))
    free = rng.random(count) < 0.3
    start[free] = end[free] * rng.uniform(0.4, 0.8, (int(free.sum()), 1)) + rng.normal(0, 18, (int(free.sum()), 2))
    way = end - start
    across = np.stack((-way[:, 1], way[:, 0]), 1)
    t = np.linspace(0, 1, STEPS_PER_FILAMENT)[None, :, None]
    bow = rng.normal(0, 0.16, (count, 1, 1)) * np.sin(np.pi * t)
    waves = rng.normal(0, 0.03, (count, 1, 1)) * np.sin(rng.uniform(5, 11, (count, 1, 1)) * t)
    path = start[:, None] + t * way[:, None] + (bow + waves) * across[:, None]
    around = (path.reshape(-1, 2) - np.array(cell.nucleus_center)).astype(np.float32)
    outside = cell.nucleus_outline.push_out(around) + np.array(cell.nucleus_center, np.float32)
    return np.asarray(cell.on_patch(outside).reshape(path.shape), np.float32)


def _microtubules(cell: Cell, filaments: NDArray[np.float32], rng: np.random.Generator) -> Plane:
    strength = np.repeat(rng.uniform(0.4, 1.3, len(filaments)).astype(np.float32), filaments.shape[1])
    sharp = splat(filaments.reshape(-1, 2), strength, cell.shape)
    mesh = 0.45 * sharp + 0.55 * blur(sharp, 1)
    mesh = 2.0 * mesh / (mesh + 2.0)  # where many cross, the stain does not grow without limit
    haze = 0.14 + 0.06 * texture("coarse", cell.shape, rng)
    return (mesh + haze) * cell.body * (0.12 + 0.88 * soft_step(1 - cell.nucleus_px, 3.0))


def _dna(cell: Cell, rng: np.random.Generator) -> Plane:
    """Chromatin of fine grain with a dark hole at each nucleolus."""
    grain = 0.78 + 0.10 * texture("medium", cell.shape, rng) + 0.05 * texture("fine", cell.shape, rng)
    holes = discs(cell.on_patch(cell.nucleoli[:, :2]), cell.nucleoli[:, 2], cell.shape)
    return np.clip(grain, 0.2, 1.2) * cell.nucleus * (1 - 0.5 * holes)


def _reticulum(cell: Cell, rng: np.random.Generator) -> Plane:
    """A net of ridges, densest at the nucleus and thinning out towards the membrane."""
    net = (
        0.25 + 0.7 * np.exp(-1.2 * np.abs(texture("medium", cell.shape, rng))) + 0.12 * texture("fine", cell.shape, rng)
    )
    outside = np.maximum(-cell.nucleus_px, 0)
    fall = 0.14 + 0.9 * np.exp(-outside / np.float32(0.32 * cell.plan.radius_px))
    rim = 0.3 * line_on(cell.nucleus_px, 3.0)
    return as_plane((np.clip(net, 0, 1.3) * fall * (1 - 0.88 * cell.nucleus) + rim) * cell.body)


def bridge(cell: Cell, *, width_px: float) -> Plane:
    """The thin stalk between two daughter cells, drawn by each over its own patch; brightness 0..1."""
    assert cell.plan.bridge is not None
    dx, dy = cell.plan.bridge[0] - cell.plan.center[0], cell.plan.bridge[1] - cell.plan.center[1]
    length = np.float32(np.hypot(dx, dy))
    along = (cell.x * np.float32(dx) + cell.y * np.float32(dy)) / length - length
    across = (cell.x * np.float32(dy) - cell.y * np.float32(dx)) / length
    # each cell draws its half of the stalk: the halves add up at the middle
    return line_on(across, width_px) * soft_step(along + 11, 3.0) * soft_step(-along, 1.0)


def spindle_frame(cell: Cell) -> tuple[Plane, Plane]:
    """Coordinates of a metaphase cell in px: along the pole-to-pole line, and along the plate."""
    c, s = np.float32(np.cos(cell.plan.axis)), np.float32(np.sin(cell.plan.axis))
    return cell.x * c + cell.y * s, cell.y * c - cell.x * s


def spindle(cell: Cell, rng: np.random.Generator) -> Plane:
    """Two cones of fibres from the poles to the plate, brightest at the poles."""
    along, across = spindle_frame(cell)
    pole = 0.58 * cell.plan.radius_px
    depth = np.clip(1 - np.abs(along) / np.float32(pole), 0, 1)
    half_width = 1.5 + 0.42 * cell.plan.radius_px * np.sqrt(depth)
    fibres = 0.8 + 0.35 * np.sin(across / (half_width + 1) * 9 + np.float32(rng.uniform(0, 6)))
    cones = soft_step(half_width - np.abs(across), 3.0) * soft_step(np.float32(pole) - np.abs(along), 3.0)
    return cones * fibres * (1.05 - 0.5 * depth)


def _metaphase(cell: Cell, rng: np.random.Generator) -> Reference:
    along, across = spindle_frame(cell)
    ragged = 1.5 * texture("medium", cell.shape, rng)
    half_thick, half_long = 0.13 * cell.plan.radius_px, 0.5 * cell.plan.radius_px
    plate = soft_step(half_thick + ragged - np.abs(along), 2.5) * soft_step(half_long + ragged - np.abs(across), 3.0)
    blue = 1.15 * plate * (0.9 + 0.1 * texture("fine", cell.shape, rng))
    haze = (0.2 + 0.04 * texture("medium", cell.shape, rng)) * cell.body
    red = haze + 0.9 * spindle(cell, rng)
    hollow = 1 - 0.7 * np.exp(-(along**2 + across**2) / np.float32((0.5 * cell.plan.radius_px) ** 2))
    yellow = 2.2 * haze * hollow
    return Reference(red, blue, yellow, np.zeros((0, STEPS_PER_FILAMENT, 2), np.float32))


def cytoplasm_points(cell: Cell, rng: np.random.Generator, count: int, *, weight: Plane | None = None) -> Points:
    """About `count` places of a whole cell's cytoplasm (fewer when part of it is hidden), clear of its borders."""
    room = soft_step(cell.edge_px - 4) * soft_step(-cell.nucleus_px - 3)
    visible = max(1, round(count * cell.visible_share()))
    return scatter(room if weight is None else room * weight, visible, rng)


def leave_trace(trace: Trace, pattern: Plane, plane: Plane) -> Plane:
    """The plane of the trace's stain with the trace of a green pattern in it."""
    shape = np.clip((2 if trace.passes else 1) * blur(pattern, trace.passes), 0, 1)
    if trace.contrast < 0:
        return as_plane(plane * (1 + trace.contrast * shape))
    left = 1.0 if trace.stain == "blue" else 1 - trace.contrast  # filaments and ER come from elsewhere, DNA stays
    return as_plane(left * plane + 1.8 * trace.contrast * shape)
