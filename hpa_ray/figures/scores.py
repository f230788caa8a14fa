"""What probabilities are worth: precision and recall, calibration, thresholds. Before: style. After: report."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from hpa_ray.figures.style import INK, PALETTE, SOFT, name_classes, styled

# K classes, B bins

PANELS_PER_ROW = 6
POINTS = 120
"""Of a drawn curve: 28 classes of thousands of images would make a file of megabytes, and look the same."""
NEVER = 0.999
LOGIT_TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


class PrCurve(NamedTuple):
    title: str
    precision: np.ndarray
    recall: np.ndarray
    base: float
    """Share of images with the class: the precision of predicting all of them."""
    average_precision: float
    at: tuple[float, float] | None = None
    """Recall and precision of the decisions that are made."""


class Spread(NamedTuple):
    """One class on the figure of thresholds; None where no image has it."""

    number: int
    threshold: float
    quartiles: tuple[float, float, float] | None
    """Of the probabilities of the images that have the class."""


@styled
def pr_curves(curves: Sequence[PrCurve]) -> Figure:
    """A small panel per curve, all with the same axes from 0 to 1."""
    rows = -(-len(curves) // PANELS_PER_ROW)
    columns = min(len(curves), PANELS_PER_ROW)
    figure = Figure(figsize=(2.0 * columns + 0.6, 1.95 * rows + 0.5))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    inches_w, inches_h = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.5 / inches_w, right=1 - 0.1 / inches_w, bottom=0.48 / inches_h, top=1 - 0.42 / inches_h, wspace=0.12,
        hspace=0.42,
    )  # fmt: skip
    for number, axes in enumerate(panels.flat):
        if number >= len(curves):
            axes.set_axis_off()
            continue
        curve = curves[number]
        colour = PALETTE[0] if number else INK  # the first is over all classes
        recall, precision = _thinned(curve.recall, curve.precision)
        axes.axhline(curve.base, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
        recall, precision = np.append(0, recall), np.append(precision[0], precision)
        axes.plot(recall, precision, color=colour, linewidth=1.4, drawstyle="steps-pre")
        if curve.at is not None:
            axes.plot(*curve.at, "o", color=PALETTE[5], markersize=5, clip_on=False, zorder=3)
        axes.set_title("\n".join(textwrap.wrap(curve.title, 24)), fontsize=8, pad=4)
        high = curve.average_precision > 0.55
        axes.text(
            0.05 if high else 0.97, 0.06 if high else 0.95, f"AP {curve.average_precision:.2f}", fontsize=8,
            ha="left" if high else "right", va="bottom" if high else "top", transform=axes.transAxes,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )  # fmt: skip
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=7.5)
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=7.5)
        axes.tick_params(labelbottom=number + columns >= len(curves))
        axes.grid(linewidth=0.5)
    figure.supxlabel("recall", fontsize=9, y=0.08 / inches_h)
    figure.supylabel("precision", fontsize=9, x=0.05 / inches_w)
    return figure


def _thinned(recall: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By rising recall, of each the highest precision; of more than POINTS, evenly many, the ends among them.

    The point of predicting nothing is left out: a step belongs to the recall at its right end, as in the average
    precision, and that point has the end of no step.
    """
    recall, precision = recall[recall > 0], precision[recall > 0]
    order = np.lexsort((-precision, recall))
    recall, precision = recall[order], precision[order]
    first = np.append(True, recall[1:] != recall[:-1])
    recall, precision = recall[first], precision[first]
    kept = np.unique(np.linspace(0, len(recall) - 1, min(len(recall), POINTS)).round().astype(int))
    return recall[kept], precision[kept]


@styled
def reliability(
    edges: np.ndarray, confidence_B: np.ndarray, observed_B: np.ndarray, count_B: np.ndarray, *, ece: float
) -> Figure:
    """Left: share that is there against the probability that was said. Right: how often each was said."""
    figure = Figure(figsize=(9.6, 4.2))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.13, top=0.91, wspace=0.24)
    left.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    there = count_B > 0
    left.vlines(
        confidence_B[there], confidence_B[there], observed_B[there], color=PALETTE[5], linewidth=2.2, alpha=0.45
    )
    left.plot(confidence_B[there], observed_B[there], "o-", color=PALETTE[0], linewidth=1.3, markersize=5.5)
    for x, y, count in zip(confidence_B[there], observed_B[there], count_B[there], strict=True):
        if count < 20:
            left.plot(x, y, "o", color="white", markeredgecolor=PALETTE[0], markersize=5.5, zorder=3)
    left.text(0.03, 0.95, f"ECE {ece:.3f}", va="top", transform=left.transAxes, fontweight="bold")
    left.text(0.97, 0.05, "below the line: too sure", ha="right", color=SOFT, transform=left.transAxes, fontsize=8)
    left.set_xlim(0, 1)
    left.set_ylim(0, 1)
    left.set_xlabel("probability that the model gives")
    left.set_ylabel("share of these that have the class")
    left.set_title("Is what it says so?")
    left.grid()
    right.bar(
        edges[:-1], np.maximum(count_B, 0), width=np.diff(edges), align="edge", color=PALETTE[0], edgecolor="white"
    )
    right.set_yscale("symlog", linthresh=1)
    right.set_ylim(0, max(int(count_B.max()), 1) * 2)
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.yaxis.set_minor_locator(NullLocator())
    right.set_xlim(0, 1)
    right.set_xlabel("probability that the model gives")
    right.set_ylabel("image and class pairs (log scale)")
    right.set_title("How often it says so")
    right.grid(axis="y")
    return figure


@styled
def threshold_dots(classes: Sequence[Spread]) -> Figure:
    """The threshold of each class on a logit axis, over the quartiles of the probabilities of its own images."""
    figure = Figure(figsize=(8.6, 1.35 + 0.235 * len(classes)))
    axes = figure.add_subplot()
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.29, right=0.97, bottom=0.5 / height, top=1 - 0.55 / height)
    for place, one in enumerate(classes):
        if one.quartiles is not None:
            low, middle, high = np.clip(one.quartiles, 1 - NEVER, NEVER)
            axes.plot([low, high], [place, place], color=PALETTE[4], linewidth=6, alpha=0.55, solid_capstyle="butt")
            axes.plot([middle, middle], [place - 0.28, place + 0.28], color=PALETTE[0], linewidth=2)
        at = float(np.clip(one.threshold, 1 - NEVER, NEVER))
        axes.plot(at, place, "o", color=PALETTE[5], markersize=6, zorder=3)
    axes.set_xscale("logit", nonpositive="clip")
    axes.set_xlim(1 - NEVER - 1e-4, NEVER + 1e-4)
    axes.set_xticks(LOGIT_TICKS, [f"{tick:g}" for tick in LOGIT_TICKS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(0.5, color=SOFT, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.grid(axis="x")
    axes.set_xlabel("probability (logit scale)")
    name_classes(axes, [one.number for one in classes])
    figure.legend(
        [
            Line2D([], [], color=PALETTE[5], marker="o", linestyle="", markersize=6),
            Patch(color=PALETTE[4], alpha=0.55),
            Line2D([], [], color=PALETTE[0], linewidth=2),
        ],
        ["threshold", "middle half of the images that have the class", "their median"],
        loc="upper right", ncols=3, fontsize=8.5, bbox_to_anchor=(0.985, 1.0),
    )  # fmt: skip
    return figure
