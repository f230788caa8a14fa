"""Where the cells of one field lie and which of them divide or touch. Before: nothing. After: synth/cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Phase = Literal["interphase", "daughter", "metaphase"]
CELLS_PER_PX2 = 12 / 512**2
CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE, CELL_JUNCTIONS = 16, 17, 22
UNASKED = {"pair": 0.06, "metaphase": 0.08, "touching": 0.6}
"""Chance of a group of cells in a wide field whose labels do not need it."""


@dataclass(frozen=True)
class Plan:
    """What is decided about a cell before its neighbours are known; positions in field pixels (x, y)."""

    center: tuple[float, float]
    radius_px: float
    phase: Phase = "interphase"
    axis: float = 0.0
    bridge: tuple[float, float] | None = None
    toward: tuple[float, float] | None = None  # the organizing centre lies on this side of the nucleus


def lay_out(labels: Sequence[int], rng: np.random.Generator, image_size: int) -> list[Plan]:
    """Places the cells of a field: first the groups that the labels need, well inside it, then others around them."""
    wanted: list[str] = []
    if CYTOKINETIC_BRIDGE in labels:
        wanted.append("pair")
    if MITOTIC_SPINDLE in labels:
        wanted.append("metaphase")
    if CELL_JUNCTIONS in labels:
        wanted.append("touching")
    if "pair" not in wanted and "touching" not in wanted and (wanted != ["metaphase"] or len(labels) > 1):
        wanted.append("single")
    num_needed = len(wanted)
    wide = image_size >= 256
    if wide:  # in a wide field dividing and touching cells also occur where no label asks for them
        wanted += [group for group in wanted if group != "single" and rng.random() < 0.6]
        wanted += [group for group, chance in UNASKED.items() if rng.random() < chance]
    plans: list[Plan] = []
    crowd = 0.8 if num_needed > 1 and not wide else 1.0
    turn = rng.uniform(0, 2 * np.pi)
    for number, group in enumerate(wanted):
        angle = turn + number * 2 * np.pi / num_needed
        if num_needed > 1 and number < num_needed:  # on a ring, where each surely has room
            ring = 0.27 * image_size
            middle = (image_size / 2 + ring * float(np.cos(angle)), image_size / 2 + ring * float(np.sin(angle)))
        elif wide:
            spot = _free_spot(rng, plans, image_size, margin_px=-75, apart_px=95)
            if spot is None:
                continue
            middle = spot
        else:
            middle = (image_size / 2, image_size / 2)
        axis = angle + np.pi / 2 + float(rng.normal(0, 0.2))  # across the way to the field's centre
        plans += _group(group, middle, rng, crowd=crowd, axis=axis)
    side = image_size + 90
    for _ in range(max(2, round(CELLS_PER_PX2 * side * side * rng.uniform(0.6, 1.4)))):
        spot = _free_spot(rng, plans, image_size, margin_px=45, apart_px=58)
        if spot is not None:
            plans.append(Plan(spot, float(rng.uniform(53, 68)), axis=float(rng.uniform(0, np.pi))))
    return plans


def _group(
    group: str, middle: tuple[float, float], rng: np.random.Generator, *, crowd: float, axis: float
) -> list[Plan]:
    """The cells of a dividing pair, a metaphase cell, two touching cells or a single one around `middle`."""
    ux, uy = np.cos(axis), np.sin(axis)
    mx, my = middle
    if group == "metaphase":
        return [Plan(middle, float(rng.uniform(33, 38)), "metaphase", axis)]
    if group == "single":
        jitter_x, jitter_y = rng.uniform(-6, 6, 2)
        return [Plan((mx + jitter_x, my + jitter_y), float(rng.uniform(54, 64)) * crowd, axis=axis, toward=middle)]
    daughters = group == "pair"
    radius = float(rng.uniform(36, 40) if daughters else rng.uniform(50, 58) * crowd)
    reach = radius * (1.0 if daughters else 0.8)
    return [
        Plan(
            (mx + sign * reach * ux, my + sign * reach * uy),
            radius,
            "daughter" if daughters else "interphase",
            axis=axis + np.pi / 2,
            bridge=middle if daughters else None,
            toward=middle,
        )
        for sign in (-1, 1)
    ]


def _free_spot(
    rng: np.random.Generator, plans: Sequence[Plan], image_size: int, *, margin_px: float, apart_px: float
) -> tuple[float, float] | None:
    """A random place `apart_px` beyond the half radius of every planned cell, or None after 30 tries."""
    for _ in range(30):
        x, y = (float(v) for v in rng.uniform(-margin_px, image_size + margin_px, 2))
        if all(np.hypot(x - p.center[0], y - p.center[1]) > apart_px + 0.7 * p.radius_px for p in plans):
            return x, y
    return None
