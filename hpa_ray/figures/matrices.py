"""Which classes occur together, or are confused: heat maps over 28 x 28 classes.

Before: figures/style. After: explore, analysis.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hpa_ray.figures.style import FAINT, INK, SOFT, class_label, new_figure, styled

# N images, K class

COMPARTMENTS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("Nucleus", (0, 1, 2, 3, 4, 5)),
    ("Cytoplasm", (23, 25, 26, 24, 27)),
    ("Endomembrane", (6, 7, 8, 9, 10, 20, 21, 22)),
    ("Cytoskeleton", (11, 12, 13, 14, 15, 16, 17, 18, 19)),
)
"""Order of the heat maps. Fixed, not clustered from the data: two data sets are compared cell by cell, and clusters
of classes with a dozen images would be noise."""
EMPTY = "#cfd5dd"
"""The diagonal, and pairs that have no value."""
SHOWN_PHI = 0.05
CELL_IN = 0.32
LEAST_CELLS = 8
NAMED_CELLS = 4
BOLD_IMAGES = 3
"""Below it nearly every pair of rare classes would stand out."""


@styled
def cooccurrence(targets_NK: np.ndarray) -> Figure:
    """Colour: share of the row's images that have the column's class too; number: how many. Diagonal: all images.

    Classes without images are left out.
    """
    counts_KK = cooccurrence_counts(targets_NK)
    order = present(targets_NK)
    shown = counts_KK[np.ix_(order, order)]
    alone = np.eye(len(order), dtype=bool)
    shares = np.ma.masked_where(alone | (shown == 0), shown / np.diag(shown)[:, None])
    figure, axes = _square(len(order), "white")
    axes.imshow(np.ma.masked_where(~alone, alone), cmap=ListedColormap([EMPTY]))
    norm = PowerNorm(0.5, 0, 1)
    image = axes.imshow(shares, cmap="YlGnBu", norm=norm)
    for (row, column), count in np.ndenumerate(shown):
        if count:
            dark = row != column and norm(shares[row, column]) > 0.55
            size = 7 if count > 9999 else 8
            axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color="white" if dark else INK)
    bar = figure.colorbar(image, **_beside(axes), format=PercentFormatter(1, decimals=0))
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.set_label("share of the row's images that have\nthe column's class too (square root scale)")
    bar.outline.set_visible(False)
    _name_both(axes, order, grid=FAINT)
    axes.set_ylabel("images of this class ...")
    axes.set_xlabel("... that are also of this class")
    return figure


@styled
def correlation(targets_NK: np.ndarray) -> Figure:
    """Phi coefficient of each pair of classes: Pearson's correlation of having the one and having the other.

    Classes without images are left out.
    """
    order = present(targets_NK)
    shown = phi_coefficients(targets_NK)[np.ix_(order, order)]
    shown[np.eye(len(order), dtype=bool)] = np.nan
    values = np.abs(shown[np.isfinite(shown)])
    limit = correlation_limit(values)
    figure, axes = _square(len(order), EMPTY)
    image = axes.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for (row, column), value in np.ndenumerate(shown):
        if abs(value) >= SHOWN_PHI:
            colour = "white" if abs(value) > 0.62 * limit else INK
            text = f"{value:+.2f}".replace("0.", ".").replace("-", "\u2212")
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(
        image,
        **_beside(axes),
        extend="both" if values.max(initial=0) > limit else "neither",
        ticks=np.linspace(-limit, limit, 5),
        format=FuncFormatter(lambda value, _: f"{value:+.3g}".replace("-", "\u2212") if value else "0"),
    )
    bar.set_label(f"correlation (phi);\nnumbers where it is {SHOWN_PHI} or more either way")
    bar.outline.set_visible(False)
    _name_both(axes, order, grid="white")
    return figure


@styled
def correlation_pair(true_KK: np.ndarray, predicted_KK: np.ndarray, order: Sequence[int], *, limit: float) -> Figure:
    """Two heat maps of the correlation of classes, of the truth and of what is predicted, on one scale."""
    size = len(order)
    side = max(0.175 * size, 2.4)
    width, height = 2 * side + 3.6, side + 1.0
    figure = Figure(figsize=(width, height))
    names = [class_label(k) for k in order]
    image = None
    for number, (title, values_KK) in enumerate((("In the labels", true_KK), ("In the predictions", predicted_KK))):
        axes = figure.add_axes(
            ((2.35 + number * (side + 0.3)) / width, 0.6 / height, side / width, side / height), facecolor=EMPTY
        )
        shown = values_KK[np.ix_(order, order)].copy()
        np.fill_diagonal(shown, np.nan)
        image = axes.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axes.set_title(title)
        axes.set_xticks(range(size), [str(k) for k in order], fontsize=6.5, rotation=90)
        axes.set_yticks(range(size), names if not number else [], fontsize=7)
        axes.set_xticks(np.arange(size - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(size - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=0.5)
        axes.tick_params(which="both", length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    assert image is not None
    bar_axes = figure.add_axes(((2.35 + 2 * side + 0.45) / width, 0.75 / height, 0.13 / width, (side - 0.3) / height))
    bar = figure.colorbar(image, cax=bar_axes, ticks=np.linspace(-limit, limit, 5))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}".replace("-", "\u2212")))
    bar.set_label("correlation (phi)")
    bar.outline.set_visible(False)
    figure.text(2.35 / width, 0.08 / height, "Number of the class. Gray: not defined.", fontsize=8, color=SOFT)
    return figure


@styled
def confusion_heatmap(counts_KK: np.ndarray, missed_K: np.ndarray, lift_KK: np.ndarray) -> Figure:
    """What was predicted, wrongly, on images of which a class was missed: see analysis/confusions for what it can say.

    counts_KK: images on which the row's class was missed and the column's predicted; missed_K: on which the row's was
    missed. Colour: the share; number: how many, bold from BOLD_IMAGES where they are more than by the column's own rate
    (lift_KK above 1). Classes never missed nor wrongly predicted are left out.
    """
    touched_K = (missed_K > 0) | counts_KK.any(axis=0)
    order = [k for _, classes in COMPARTMENTS for k in classes if touched_K[k]]
    shown, lift = counts_KK[np.ix_(order, order)], np.nan_to_num(lift_KK[np.ix_(order, order)])
    shares = np.ma.masked_where(shown == 0, shown / np.maximum(missed_K[order], 1)[:, None])
    figure, axes = _square(len(order), "white")
    if not order:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no class was missed or wrongly predicted", ha="center", transform=axes.transAxes)
        return figure
    alone = np.eye(len(order), dtype=bool)
    axes.imshow(np.ma.masked_where(~alone, alone), cmap=ListedColormap([EMPTY]))
    norm = PowerNorm(0.5, 0, 1)
    image = axes.imshow(shares, cmap="OrRd", norm=norm)
    for (row, column), count in np.ndenumerate(shown):
        if count:
            colour = "white" if norm(shares[row, column]) > 0.7 else INK
            weight = "bold" if count >= BOLD_IMAGES and lift[row, column] > 1 else "normal"
            size = 7 if count > 999 else 8
            axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=colour, weight=weight)
    bar = figure.colorbar(image, **_beside(axes), format=PercentFormatter(1, decimals=0))
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    bar.set_label(
        "share of the row's missed images\n(square root scale); number: images,\n"
        f"bold: {BOLD_IMAGES} or more, and more often than on others"
    )
    bar.outline.set_visible(False)
    _name_both(axes, order, grid=FAINT)
    axes.set_yticks(range(len(order)), [f"{class_label(k)}  ({missed_K[k]:,})" for k in order])
    axes.set_ylabel("class on the image that was missed (on so many) ...")
    axes.set_xlabel("... and class not on it that was predicted")
    return figure


def present(targets_NK: np.ndarray) -> list[int]:
    """The classes that have images, in the order of the heat maps."""
    counts_K = targets_NK.sum(axis=0, dtype=np.int64)
    return [k for _, classes in COMPARTMENTS for k in classes if counts_K[k]]


def cooccurrence_counts(targets_NK: np.ndarray) -> np.ndarray:
    """(28, 28): images that have both classes; on the diagonal the images of the class."""
    wide = targets_NK.astype(np.float64)  # exact for whole numbers, and multiplied a hundred times as fast as integers
    return np.asarray(wide.T @ wide).astype(np.int64)


def phi_coefficients(targets_NK: np.ndarray) -> np.ndarray:
    """(28, 28); nan for a class that no image, or every image, has."""
    share_K = targets_NK.mean(axis=0, dtype=np.float64)
    both_KK = cooccurrence_counts(targets_NK) / len(targets_NK)
    std_K = np.sqrt(share_K * (1 - share_K))
    with np.errstate(divide="ignore", invalid="ignore"):
        phi: np.ndarray = (both_KK - np.outer(share_K, share_K)) / np.outer(std_K, std_K)
    return phi


def correlation_limit(values: np.ndarray) -> float:
    """End of the colour scale: 99 of 100 pairs lie within, so that one pair of near-synonyms does not pale the rest."""
    wanted = float(np.quantile(values, 0.99)) if values.size else 0.0
    return next(limit for limit in (0.1, 0.15, 0.2, 0.3, 0.5, 1.0) if wanted <= limit or limit == 1.0)


def _square(num_classes: int, empty: str) -> tuple[Figure, Axes]:
    side_in = CELL_IN * max(num_classes, LEAST_CELLS)
    figure = new_figure(side_in + 4.1, side_in + 2.9)
    axes = figure.add_subplot()
    axes.set_facecolor(empty)  # shows where there is no value
    return figure, axes


def _beside(axes: Axes) -> dict[str, Any]:
    return {"ax": axes, "shrink": 0.6, "aspect": 30, "pad": 0.055}


def _name_both(axes: Axes, order: list[int], *, grid: str) -> None:
    names = [class_label(k) for k in order]
    axes.set_xticks(range(len(order)), names, rotation=90)
    axes.set_yticks(range(len(order)), names)
    between = np.arange(len(order) - 1) + 0.5
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(which="minor", color=grid, linewidth=0.6)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    start = 0
    for name, classes in COMPARTMENTS:
        size = len(set(classes) & set(order))
        if size == 0:
            continue
        middle, end = start + size / 2 - 0.5, start + size - 0.5
        if size >= NAMED_CELLS:  # else its name would run into the next one
            axes.text(len(order) - 0.25, middle, name, rotation=270, va="center", ha="left", fontweight="bold")
            axes.text(middle, -0.75, name, va="bottom", ha="center", fontweight="bold")
        if end < len(order) - 1:
            axes.axhline(end, color=INK, linewidth=1)
            axes.axvline(end, color=INK, linewidth=1)
        start += size
