"""What augmentation makes of images: for every run, as it was set. Before: figures/colour, style. After: train."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from hpa_ray.channels import STAINS
from hpa_ray.figures.colour import LEAST_WHITE, MERGE, WHITE_PERCENTILE
from hpa_ray.figures.style import SOFT, class_label, styled

# B images, D the original and its draws, C stains, S side in px

TILE_IN = 1.55
GAP_IN = 0.04
WIDER_GAP_IN = 0.14
MARGIN_IN = 0.08
HEAD_IN = 0.26
LINE_IN = 0.16
CHARACTERS_PER_IN = 15


@styled
def augmented(
    images_BDCSS: np.ndarray,
    label_sets: Sequence[Sequence[int]],
    image_ids: Sequence[str],
    channels: Sequence[str] = STAINS,
) -> Figure:
    """A row per image, stains merged: the original, then its draws; below it the Id and the classes of the original.

    Values of 0 to 255. The contrast of a row is stretched for display as that of its original, so that a change of
    brightness shows.
    """
    num_tiles = images_BDCSS.shape[1]
    lefts = [MARGIN_IN + tile * (TILE_IN + GAP_IN) + (tile > 0) * (WIDER_GAP_IN - GAP_IN) for tile in range(num_tiles)]
    width = lefts[-1] + TILE_IN + MARGIN_IN
    texts = [
        textwrap.wrap(f"{image_id}   {_names(labels)}", int(width * CHARACTERS_PER_IN))
        for image_id, labels in zip(image_ids, label_sets, strict=True)
    ]
    rows_in = [TILE_IN + 0.06 + len(lines) * LINE_IN + 0.1 for lines in texts]
    height = HEAD_IN + sum(rows_in)
    figure = Figure(figsize=(width, height))
    for tile, left in enumerate(lefts):
        title, weight = (f"augmented, draw {tile}", "normal") if tile else ("original", "bold")
        at = ((left + TILE_IN / 2) / width, 1 - 0.06 / height)
        figure.text(*at, title, ha="center", va="top", fontweight=weight)
    top = height - HEAD_IN
    for images_DCSS, lines, row_in in zip(images_BDCSS, texts, rows_in, strict=True):
        for left, picture in zip(lefts, merge_alike(images_DCSS, channels), strict=True):
            axes = figure.add_axes((left / width, (top - TILE_IN) / height, TILE_IN / width, TILE_IN / height))
            axes.imshow(picture)
            axes.set_axis_off()
        below = (MARGIN_IN / width, (top - TILE_IN - 0.06) / height)
        figure.text(*below, "\n".join(lines), ha="left", va="top", fontsize=8.5, linespacing=1.25, color=SOFT)
        top -= row_in
    return figure


def merge_alike(images_DCSS: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """(D, C, S, S) of 0 to 255 -> (D, S, S, 3) uint8 in merged colours, all stretched as the first of them."""
    white_C = np.maximum(np.percentile(images_DCSS[0], WHITE_PERCENTILE, axis=(1, 2)), LEAST_WHITE)
    weights = np.array([MERGE[stain] for stain in channels])
    mixed = np.einsum("dchw,cr->dhwr", np.clip(images_DCSS / white_C[:, None, None], 0, 1), weights)
    return np.asarray((np.clip(mixed, 0, 1) * 255).round(), np.uint8)


def _names(labels: Sequence[int]) -> str:
    return ",  ".join(class_label(k).replace(" ", "\u00a0") for k in labels) or "no class"
