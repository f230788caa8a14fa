"""Label set + seed -> one (4, S, S) uint8 field as a camera sees it. Before: synth/patterns. After: synth/atlas."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.synth.brush import Plane, blur, texture
from hpa_ray.synth.cells import Cell, build_cells
from hpa_ray.synth.layout import CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE, lay_out
from hpa_ray.synth.patterns import draw_pattern
from hpa_ray.synth.stains import TRACES, draw_reference, leave_trace

SMALLEST_FIELD_PX = 128
"""A field must hold a cell; a smaller image is this field shrunk by area."""

# Brightness of each stain at pattern value 1, in gray levels, and its spread from image to image (natural log). Chosen
# so that 512 px images with the competition's label sets have the mean and spread of its training set:
# mean 0.081 0.053 0.055 0.083, standard deviation 0.137 0.101 0.153 0.138 in the order of STAINS.
EXPOSURE = {"red": (94.0, 0.4), "green": (98.0, 0.33), "blue": (160.0, 0.3), "yellow": (130.0, 0.4)}
BACKGROUND_LEVELS = (0.1, 1.0)
READ_NOISE_LEVELS = 0.7
SHOT_NOISE_LEVELS = 0.08
"""Variance in square levels that each level of signal adds."""
UNSPECIFIC = 0.025
"""Faint green of every cell, whatever the label."""
FAINT_SHARE = 0.5
"""Share of a class's images in which green hardly shows it, as with poor antibodies and weakly made proteins; only for
classes that a reference stain shows too. With it and the traces, one seed of the enhanced ResNet50 of
`benchmarks/compare.py ladder` had a macro F1 of 0.377 on green, 0.479 on red green blue, 0.542 on all four; without
them 0.574, 0.567, 0.566: green told all."""
SHOWN_ELSEWHERE = {*TRACES, CYTOKINETIC_BRIDGE, MITOTIC_SPINDLE}
LAYOUT, CELLS, STAINING, EXPOSING, SENSOR, GREEN = range(6)  # one random stream each: a label moves no cell


def render_field(labels: Sequence[int], *, seed: Sequence[int], image_size: int) -> NDArray[np.uint8]:
    """A synthetic field, (4, S, S) uint8 with planes in the order of STAINS; a pure function of its arguments.

    `image_size` is the side in px at the scale of the competition's 512 px images, where a cell is 110 to 140 px
    across: fewer px show fewer cells, not smaller ones. Below 128 px, a 128 px field is shrunk by area.
    Classes 16, 17 and 22 also bring the cells they need (a dividing pair, a metaphase, two that touch), and those of
    TRACES leave a trace in a reference stain; otherwise a label changes green alone.
    """
    field_px = max(image_size, SMALLEST_FIELD_PX)
    planes = _scene(sorted(set(labels)), seed, field_px)
    image = _sense(planes, np.random.default_rng([*seed, SENSOR]))
    if field_px == image_size:
        return image
    small = [Image.fromarray(plane).resize((image_size, image_size), Image.Resampling.BOX) for plane in image]
    return np.stack([np.asarray(plane) for plane in small])


def _scene(labels: Sequence[int], seed: Sequence[int], field_px: int) -> NDArray[np.float32]:
    """Light that reaches the camera, (4, S, S) float32 in gray levels, without background and noise."""
    exposing = np.random.default_rng([*seed, EXPOSING])
    levels = {
        stain: typical * float(np.exp(spread * np.clip(exposing.normal(), -1.6, 1.6)))
        for stain, (typical, spread) in EXPOSURE.items()
    }
    plans = lay_out(labels, np.random.default_rng([*seed, LAYOUT]), field_px)
    cells = build_cells(plans, np.random.default_rng([*seed, CELLS]), field_px)
    scene = np.zeros((len(STAINS), field_px, field_px), np.float32)
    staining = np.random.default_rng([*seed, STAINING])
    greens = {label: np.random.default_rng([*seed, GREEN, label]) for label in labels}
    proteins = {label: _protein(label, rng) for label, rng in greens.items()}
    for cell in cells:
        window = (slice(cell.top, cell.top + cell.shape[0]), slice(cell.left, cell.left + cell.shape[1]))
        ref = draw_reference(cell, staining)
        vary = np.exp(staining.normal(0, 0.12, len(STAINS))).astype(np.float32)
        planes = {"red": ref.red, "green": UNSPECIFIC * cell.body, "blue": ref.blue, "yellow": ref.yellow}
        for label, rng in greens.items():
            pattern = draw_pattern(label, cell, ref, rng)
            strength, haze = proteins[label]
            green = strength * pattern + (_haze(cell, rng) * np.float32(haze) if haze else 0)
            planes["green"] = planes["green"] + float(rng.uniform(0.85, 1.15)) * green
            if label in TRACES and cell.plan.phase != "metaphase":
                stain = TRACES[label].stain
                planes[stain] = leave_trace(TRACES[label], pattern, planes[stain])
        planes["green"] = blur(planes["green"], 1)
        for number, (stain, drawn) in enumerate(planes.items()):
            scene[(number, *window)] += np.float32(levels[stain]) * vary[number] * drawn
    return scene


def _protein(label: int, rng: np.random.Generator) -> tuple[float, float]:
    """How bright an image's protein is in its structure, and how bright the haze is that lies over it."""
    strength, haze = float(rng.uniform(0.6, 1.0)), 0.0
    if rng.random() < FAINT_SHARE and label in SHOWN_ELSEWHERE:
        strength, haze = float(rng.uniform(0.02, 0.09)), float(rng.uniform(0.07, 0.15))
    return strength, haze


def _haze(cell: Cell, rng: np.random.Generator) -> Plane:
    """What an antibody that finds little protein leaves all over the cell: uneven light of mean 1."""
    return (1 + 0.25 * texture("coarse", cell.shape, rng) + 0.2 * texture("medium", cell.shape, rng)) * cell.body


def _sense(scene: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Adds background, shot and read noise, and rounds to 8 bit."""
    background = rng.uniform(*BACKGROUND_LEVELS, len(scene)).astype(np.float32)
    noise = rng.standard_normal(scene.shape, np.float32)
    scene = np.maximum(scene, 0)  # a rare texture value dips below
    noise *= np.sqrt(scene * np.float32(SHOT_NOISE_LEVELS) + np.float32(READ_NOISE_LEVELS**2))
    noise += scene
    noise += background[:, None, None] + np.float32(0.5)
    return np.clip(noise, 0, 255, out=noise).astype(np.uint8)
