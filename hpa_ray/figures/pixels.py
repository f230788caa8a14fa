"""What the images look like: montages in pseudo-colour, and histograms of intensity. Before: figures/style, colour."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from hpa_ray.channels import STAIN_TARGETS, STAINS
from hpa_ray.figures.colour import merge_rgb, pseudo_colour, stretch
from hpa_ray.figures.style import INK, PALETTE, class_label, new_figure, styled
from hpa_ray.known import COMPETITION_TRAIN, Intensities

# B images, C stains, S side in px

TILE_IN = 1.9
GAP_IN = 0.04
MARGIN_IN = 0.08
HEAD_IN = 0.5
LINE_IN = 0.17
CHARACTERS_PER_IN = 15
LEAST_SHARE = 5e-7
EDGES = (np.arange(257) - 0.5) / 255


@styled
def montage(
    images_BCSS: np.ndarray,
    image_ids: Sequence[str],
    label_sets: Sequence[Sequence[int] | None],
    *,
    channels: Sequence[str] = STAINS,
) -> Figure:
    """A row per image: each stain in its colour, then all of them merged; above it the Id and the classes.

    Contrast is stretched for display, see figures/colour.
    """
    titles = [(stain, STAIN_TARGETS[stain]) for stain in channels] + [("merge", "all stains")] * (len(channels) > 1)
    width = len(titles) * (TILE_IN + GAP_IN) - GAP_IN + 2 * MARGIN_IN
    heads = [
        textwrap.wrap(f"{image_id}   {_names(labels)}", int(width * CHARACTERS_PER_IN))
        for image_id, labels in zip(image_ids, label_sets, strict=True)
    ]
    rows_in = [len(lines) * LINE_IN + 0.07 + TILE_IN + 0.12 for lines in heads]
    height = HEAD_IN + sum(rows_in)
    figure = Figure(figsize=(width, height))
    lefts = [MARGIN_IN + column * (TILE_IN + GAP_IN) for column in range(len(titles))]
    for left, (title, below) in zip(lefts, titles, strict=True):
        centre = (left + TILE_IN / 2) / width
        figure.text(centre, 1 - 0.06 / height, title, ha="center", va="top", fontweight="bold")
        figure.text(centre, 1 - 0.23 / height, below, ha="center", va="top", fontsize=8.5)
    bottom = height - HEAD_IN
    for image, lines, row_in in zip(images_BCSS, heads, rows_in, strict=True):
        at = (MARGIN_IN / width, (bottom - 0.03) / height)
        figure.text(*at, "\n".join(lines), ha="left", va="top", fontsize=8.5, linespacing=1.25)
        bottom -= row_in
        tiles = [pseudo_colour(plane, stain) for plane, stain in zip(stretch(image), channels, strict=True)]
        for left, tile in zip(lefts, [*tiles, merge_rgb(image, channels)], strict=False):
            box = (left / width, (bottom + 0.12) / height, TILE_IN / width, TILE_IN / height)
            axes = figure.add_axes(box)
            axes.imshow(tile)
            axes.set_axis_off()
    return figure


@styled
def intensity_histograms(
    counts_by_source: Mapping[str, np.ndarray],
    *,
    channels: Sequence[str] = STAINS,
    reference: Intensities = COMPETITION_TRAIN,
) -> Figure:
    """Share of the pixels at each gray level, per stain; `counts_by_source` holds (C, 256) numbers of pixels."""
    columns = 2 if len(channels) == 4 else len(channels)
    rows = -(-len(channels) // columns)
    figure = new_figure(4.6 * columns, 0.5 + 2.7 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    handles = []
    for place, (stain, axes) in enumerate(zip(channels, grid.flat, strict=True)):
        known = reference.mean[STAINS.index(stain)]
        lines = []
        for number, (name, counts_CL) in enumerate(counts_by_source.items()):
            colour = PALETTE[number % len(PALETTE)]
            shares = counts_CL[place] / max(counts_CL[place].sum(), 1)
            shares = np.where(shares > 0, shares, np.nan)  # a log scale has no 0: a gap
            mean = histogram_mean(counts_CL[place])
            handles.append(axes.stairs(shares, EDGES, baseline=None, color=colour, label=name, linewidth=1.1))
            axes.axvline(mean, color=colour, linewidth=1.6)
            lines.append((f"mean {mean:.3f}", colour, "bold"))
        axes.axvline(known, color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
        lines.append((f"dashed: {reference.name} {known:.3f}", INK, "normal"))
        for line, (text, colour, weight) in enumerate(lines):
            axes.annotate(
                text, (0.985, 0.96 - 0.09 * line), xycoords="axes fraction", ha="right", va="top", color=colour,
                fontweight=weight, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )  # fmt: skip
        axes.set_title(f"{stain}: {STAIN_TARGETS[stain]}")
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid()
    for axes in grid[-1]:
        axes.set_xlabel("intensity (0 to 1)")
    for axes in grid[:, 0]:
        axes.set_ylabel("share of pixels, log scale")
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{100 * value:.5f}".rstrip("0").rstrip(".") + "%")
        )
    grid[0, 0].set_xlim(-0.01, 1.01)
    grid[0, 0].set_ylim(bottom=max(grid[0, 0].get_ylim()[0], LEAST_SHARE))
    if len(counts_by_source) > 1:
        names = list(counts_by_source)
        figure.legend(handles[: len(names)], names, loc="outside upper center", ncols=min(len(names), 3))
    return figure


def histogram_mean(counts_L: np.ndarray) -> float:
    """Mean intensity, 0 to 1, of pixels counted by gray level."""
    return float(counts_L @ np.arange(256) / max(counts_L.sum(), 1) / 255)


def histogram_std(counts_L: np.ndarray) -> float:
    levels = np.arange(256) / 255
    return float(np.sqrt(max(counts_L @ levels**2 / max(counts_L.sum(), 1) - histogram_mean(counts_L) ** 2, 0)))


def _names(labels: Sequence[int] | None) -> str:
    return (
        "no labels known"
        if labels is None
        else ",  ".join(class_label(k).replace(" ", "\u00a0") for k in labels) or "no class"
    )
