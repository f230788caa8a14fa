"""The protein (green) pattern of each of the 28 classes in one cell. Before: synth/stains. After: synth/render."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hpa_ray.synth.brush import Plane, Points, as_plane, blur, discs, line_on, scatter, soft_step, splat, texture
from hpa_ray.synth.cells import Cell
from hpa_ray.synth.layout import CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE
from hpa_ray.synth.stains import Reference, bridge, cytoplasm_points, spindle

Pattern = Callable[[Cell, Reference, np.random.Generator], Plane]
"""(cell, its reference stains, rng) -> (H, W) float32 over the cell's patch: 0 nothing, about 1 the brightest part."""


def _sizes(rng: np.random.Generator, low_px: float, high_px: float, count: int) -> NDArray[np.float32]:
    return rng.uniform(low_px, high_px, count).astype(np.float32)


def _strokes(
    starts: Points,
    angles: NDArray[np.float64],
    lengths: NDArray[np.float32],
    shape: tuple[int, int],
    *,
    bend: NDArray[np.float64] | float = 0.0,
    passes: int = 2,
) -> Plane:
    """Short lines centred at `starts`; `bend` turns them by that many radians along their way; brightness up to 1."""
    t = np.linspace(-0.5, 0.5, int(np.ceil(2 * float(lengths.max(initial=1.0)))) + 2)[None, :]
    turn = angles[:, None] + np.broadcast_to(np.asarray(bend), angles.shape)[:, None] * t
    along = np.stack((np.cos(turn), np.sin(turn)), -1) * (t * lengths[:, None])[..., None]
    points = (starts[:, None] + along).reshape(-1, 2).astype(np.float32)
    per_px = np.repeat(lengths / t.size, t.size).astype(np.float32)
    light = blur(splat(points, per_px, shape), passes)
    return as_plane(np.minimum(light * np.float32(2.0 + 0.9 * passes), 1))


# nucleus


def nucleoplasm(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    holes = discs(cell.on_patch(cell.nucleoli[:, :2]), cell.nucleoli[:, 2], cell.shape)
    return as_plane(cell.nucleus * (0.72 + 0.1 * texture("medium", cell.shape, rng)) * (1 - 0.65 * holes))


def nuclear_membrane(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    rim = line_on(cell.nucleus_px - 0.5, 3.2) * (0.95 + 0.12 * texture("medium", cell.shape, rng))
    return as_plane((rim + 0.14 * cell.nucleus) * cell.body)


def nucleoli(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    ragged = discs(cell.on_patch(cell.nucleoli[:, :2]), cell.nucleoli[:, 2] + 0.8, cell.shape)
    return ragged * (0.95 + 0.1 * texture("fine", cell.shape, rng)) * cell.body + 0.1 * cell.nucleus


def fibrillar_center(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Small bright grains crowded inside each nucleolus."""
    per = 2
    around = rng.normal(0, 0.42, (len(cell.nucleoli), per, 2)) * cell.nucleoli[:, None, 2:]
    grains = cell.on_patch((cell.nucleoli[:, None, :2] + around).reshape(-1, 2).astype(np.float32))
    return 1.3 * discs(grains, _sizes(rng, 1.3, 1.9, len(grains)), cell.shape) * cell.body


def speckles(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Many irregular patches all over the nucleus, clear of the nucleoli, over a dim nucleoplasm."""
    holes = discs(cell.on_patch(cell.nucleoli[:, :2]), cell.nucleoli[:, 2], cell.shape)
    patches = soft_step(texture("medium", cell.shape, rng) - 0.75, 0.6)
    return (0.95 * patches * (1 - holes) + 0.12) * cell.nucleus * soft_step(cell.nucleus_px - 2)


def nuclear_bodies(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """A few round dots of one size, outside the nucleoli."""
    holes = discs(cell.on_patch(cell.nucleoli[:, :2]), cell.nucleoli[:, 2] + 3, cell.shape)
    dots = scatter(soft_step(cell.nucleus_px - 5) * (1 - holes) * cell.body, int(rng.integers(4, 8)), rng)
    return discs(dots, _sizes(rng, 2.4, 3.1, len(dots)), cell.shape) + 0.05 * cell.nucleus


# nets and filaments


def endoplasmic_reticulum(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    return 0.9 * ref.yellow


def microtubules(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    return 0.9 * ref.red


def microtubule_ends(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Comets: a short dash at the outer end of each filament, along it."""
    if len(ref.filaments) == 0:
        return np.zeros(cell.shape, np.float32)
    last = ref.filaments.shape[1] - 1
    tip = rng.integers(int(0.72 * last), last, len(ref.filaments))
    row = np.arange(len(tip))
    at, before = ref.filaments[row, tip], ref.filaments[row, tip - 6]
    angle = np.arctan2(*(at - before).T[::-1]).astype(np.float64)
    return _strokes(at, angle, _sizes(rng, 5, 7, len(at)), cell.shape, passes=2) * cell.cytoplasm


def intermediate_filaments(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Wavy bundles that run round the nucleus like a cage, densest close to it and on one side."""
    count, steps = 26, 90
    t = np.linspace(-1, 1, steps)[None, :]
    side = rng.uniform(0, 2 * np.pi)
    angle = side + rng.normal(0, 0.9, (count, 1)) + t * rng.uniform(0.5, 1.3, (count, 1))
    away = (
        2
        + rng.exponential(9, (count, 1))
        + 3.5 * np.sin(rng.uniform(4, 9, (count, 1)) * t + 6 * rng.random((count, 1)))
    )
    radius = cell.nucleus_outline.at(angle) + np.maximum(away, 1)
    nx, ny = cell.nucleus_center
    points = np.stack((nx + radius * np.cos(angle), ny + radius * np.sin(angle)), -1).reshape(-1, 2)
    light = blur(splat(cell.on_patch(points.astype(np.float32)), 1.0, cell.shape), 3)
    return as_plane(np.minimum(1.3 * light, 1) * cell.cytoplasm + 0.04 * cell.cytoplasm)


def actin_filaments(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Straight parallel fibres from border to border, over the nucleus too, and a thin rim."""
    angle = cell.plan.axis + rng.normal(0, 0.15)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    across = cell.y * c - cell.x * s + 0.6 * texture("coarse", cell.shape, rng)
    along = cell.x * c + cell.y * s
    pitch = np.float32(rng.uniform(7.0, 8.5))
    lane = np.rint(across / pitch)
    fibre = line_on(across - lane * pitch, 2.4)
    uneven = 0.65 + 0.35 * np.sin(lane * 2.4 + along * np.float32(0.05) + np.float32(rng.uniform(0, 6)))
    return as_plane((0.95 * fibre * uneven + 0.06) * cell.body + 0.3 * line_on(cell.edge_px - 2, 2.5))


def mitochondria(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Worm-like rods all through the cytoplasm, more of them near the nucleus."""
    near = np.exp(np.minimum(cell.nucleus_px, 0) / np.float32(0.45 * cell.plan.radius_px))
    starts = cytoplasm_points(cell, rng, 65, weight=near)
    angles = rng.uniform(0, 2 * np.pi, len(starts))
    bend = rng.normal(0, 1.6, len(starts))
    return _strokes(starts, angles, _sizes(rng, 9, 18, len(starts)), cell.shape, bend=bend) * cell.cytoplasm


# cell border


def plasma_membrane(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    return as_plane(
        line_on(cell.edge_px - 1.5, 3.4) * (0.9 + 0.15 * texture("medium", cell.shape, rng)) + 0.08 * cell.body
    )


def cell_junctions(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """A thick uneven line, only where the membrane touches a neighbour."""
    uneven = np.clip(0.95 + 0.2 * texture("medium", cell.shape, rng), 0, 1.1)
    return as_plane(line_on(cell.edge_px - 0.5, 5.0) * cell.contact * uneven + 0.04 * cell.body)


def focal_adhesions(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Thick dashes along the free border, pointing outwards, over a dim cell."""
    belt = line_on(cell.edge_px - 8, 6.0) * (1 - cell.contact)
    starts = scatter(belt * cell.body, max(1, round(24 * cell.visible_share())), rng)
    away = starts + np.array((cell.x[0, 0], cell.y[0, 0]))
    angles = np.arctan2(away[:, 1], away[:, 0]) + rng.normal(0, 0.2, len(away))
    return (
        _strokes(starts, angles, _sizes(rng, 9, 13, len(starts)), cell.shape, passes=4) * cell.body + 0.05 * cell.body
    )


# one place per cell


def golgi(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Stacked lumpy ribbons on one side of the nucleus, around the organizing centre."""
    nx, ny = cell.nucleus_center
    side = np.arctan2(cell.mtoc[1] - ny, cell.mtoc[0] - nx)
    t = np.linspace(-1, 1, 60)[None, :]
    ribbons = 5
    angle = side + rng.normal(0, 0.25, (ribbons, 1)) + t * rng.uniform(0.35, 0.8, (ribbons, 1))
    wave = 2.0 * np.sin(rng.uniform(5, 9, (ribbons, 1)) * t + 6 * rng.random((ribbons, 1)))
    radius = cell.nucleus_outline.at(angle) + 4 + 3.0 * np.arange(ribbons)[:, None] + wave
    points = np.stack((nx + radius * np.cos(angle), ny + radius * np.sin(angle)), -1).reshape(-1, 2)
    lumps = rng.uniform(0.1, 1.0, (ribbons, 12)).astype(np.float32).repeat(5, 1).reshape(-1)
    light = blur(splat(cell.on_patch(points.astype(np.float32)), lumps, cell.shape), 4)
    return as_plane(1.2 * np.minimum(2.2 * light, 1) * cell.body)


def organizing_center(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """A soft cloud at the centre of the microtubules, with the inner parts of the filaments that leave it."""
    dx, dy = cell.x - np.float32(cell.mtoc[0]), cell.y - np.float32(cell.mtoc[1])
    distance2 = dx * dx + dy * dy
    cloud = np.exp(-distance2 / np.float32(2 * 4.5**2))
    return as_plane((0.75 * cloud + 0.9 * ref.red * np.exp(-distance2 / np.float32(2 * 10.0**2))) * cell.body)


def centrosome(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Two sharp dots side by side at the centre of the microtubules."""
    angle = rng.uniform(0, np.pi)
    half = 3.4 * np.array((np.cos(angle), np.sin(angle)))
    pair = np.stack((np.array(cell.mtoc) + half, np.array(cell.mtoc) - half)).astype(np.float32)
    return 1.7 * discs(cell.on_patch(pair), np.full(2, 2.6, np.float32), cell.shape) + 0.03 * cell.body


def aggresome(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """One big round lump beside the nucleus."""
    nx, ny = cell.nucleus_center
    out = np.hypot(cell.mtoc[0] - nx, cell.mtoc[1] - ny)
    shift = 1 + 5 / out
    middle = np.array([[nx + shift * (cell.mtoc[0] - nx), ny + shift * (cell.mtoc[1] - ny)]], np.float32)
    lump = 1.1 * discs(cell.on_patch(middle), _sizes(rng, 10, 12.5, 1), cell.shape)
    return lump * (0.9 + 0.12 * texture("medium", cell.shape, rng)) * cell.body + 0.05 * cell.body


# dividing cells


def cytokinetic_bridge(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    if cell.plan.bridge is None:
        return 0.05 * cell.body
    return 1.3 * bridge(cell, width_px=6.0) + 0.05 * cell.body


def mitotic_spindle(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    if cell.plan.phase != "metaphase":
        return 0.05 * cell.body
    return 1.25 * spindle(cell, rng) + 0.08 * cell.body


# cytoplasm: diffuse, and vesicles that differ in number, size, place and filling


def cytosol(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    return (0.48 + 0.06 * texture("coarse", cell.shape, rng)) * (cell.cytoplasm + 0.15 * cell.nucleus)


def peroxisomes(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Very many tiny grains everywhere."""
    grains = cytoplasm_points(cell, rng, 110)
    return 1.4 * discs(grains, _sizes(rng, 1.1, 1.4, len(grains)), cell.shape)


def endosomes(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Middle-sized vesicles, most of them towards the membrane, over a dim cytosol."""
    outer = soft_step(14 - cell.edge_px, 12.0)
    vesicles = cytoplasm_points(cell, rng, 30, weight=outer)
    return discs(vesicles, _sizes(rng, 1.9, 2.6, len(vesicles)), cell.shape) + 0.08 * cell.cytoplasm


def lysosomes(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Big filled vesicles crowded against the nucleus, most of them on one side."""
    dx, dy = cell.x - np.float32(cell.mtoc[0]), cell.y - np.float32(cell.mtoc[1])
    side = 0.3 + np.exp(-(dx * dx + dy * dy) / np.float32(2 * 25.0**2))
    vesicles = cytoplasm_points(cell, rng, 24, weight=side * np.exp(np.minimum(cell.nucleus_px, 0) / np.float32(7)))
    return 1.1 * discs(vesicles, _sizes(rng, 2.5, 3.8, len(vesicles)), cell.shape)


def lipid_droplets(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """Hollow spheres: bright rings with a dark middle."""
    drops = cytoplasm_points(cell, rng, 16)
    return 1.7 * discs(drops, _sizes(rng, 4.8, 7.0, len(drops)), cell.shape, hollow=True) * cell.body


def cytoplasmic_bodies(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """A few large round bodies far from each other."""
    bodies = cytoplasm_points(cell, rng, 6)
    return discs(bodies, _sizes(rng, 3.6, 4.6, len(bodies)), cell.shape) + 0.08 * cell.cytoplasm


def rods_and_rings(cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """A few long straight rods and wide rings."""
    places = cytoplasm_points(cell, rng, 8)
    num_rods = max(1, len(places) - 3)
    rods, rings = places[:num_rods], places[num_rods:]
    angles = rng.uniform(0, 2 * np.pi, len(rods))
    light = _strokes(rods, angles, _sizes(rng, 22, 30, len(rods)), cell.shape, passes=3)
    circles = discs(rings, _sizes(rng, 8, 10, len(rings)), cell.shape, hollow=True)
    return as_plane(1.4 * np.maximum(light, 1.2 * circles) * cell.body)


PATTERNS: dict[int, Pattern] = {
    0: nucleoplasm,
    1: nuclear_membrane,
    2: nucleoli,
    3: fibrillar_center,
    4: speckles,
    5: nuclear_bodies,
    6: endoplasmic_reticulum,
    7: golgi,
    8: peroxisomes,
    9: endosomes,
    10: lysosomes,
    11: intermediate_filaments,
    12: actin_filaments,
    13: focal_adhesions,
    14: microtubules,
    15: microtubule_ends,
    16: cytokinetic_bridge,
    17: mitotic_spindle,
    18: organizing_center,
    19: centrosome,
    20: lipid_droplets,
    21: plasma_membrane,
    22: cell_junctions,
    23: mitochondria,
    24: aggresome,
    25: cytosol,
    26: cytoplasmic_bodies,
    27: rods_and_rings,
}
"""Class number -> drawing function; the classes are those of `labels.CLASS_NAMES`."""


def draw_pattern(label: int, cell: Cell, ref: Reference, rng: np.random.Generator) -> Plane:
    """The class's pattern; in a metaphase cell, which has no organelles in place, every other protein is diffuse."""
    if cell.plan.phase == "metaphase" and label not in (CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE):
        return 0.15 * cell.body
    return PATTERNS[label](cell, ref, rng)
