"""How loss and scores went over the epochs of a run. Before: figures/style. After: train."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpa_ray.figures.style import PALETTE, SOFT, new_figure, styled

TRAIN, VAL, TUNED = PALETTE[1], PALETTE[0], PALETTE[2]


class Curve(NamedTuple):
    key: str  # of metrics.jsonl
    label: str
    colour: str


def _both(name: str) -> tuple[Curve, ...]:
    return (
        Curve(f"train_{name}", "train, as seen", TRAIN),
        Curve(name, "validation", VAL),
        Curve(f"{name}_tuned", "validation, thresholds tuned", TUNED),
    )


PANELS: tuple[tuple[str, tuple[Curve, ...]], ...] = (
    ("Loss", (Curve("train_loss", "train, as seen", TRAIN), Curve("val_loss", "validation", VAL))),
    ("Macro F1", _both("macro_f1")),
    ("Micro F1", _both("micro_f1")),
    ("Ranking", (Curve("map", "mean average precision", VAL), Curve("auroc", "area under ROC", TUNED))),
    ("Exact match", _both("exact_match")),
    ("Proportional accuracy", _both("proportional_accuracy")),
    ("Precision, recall (micro)", (Curve("precision_micro", "precision", VAL), Curve("recall_micro", "recall", TRAIN))),
    ("Learning rate", (Curve("lr", "at the end of the epoch", SOFT),)),
)


@styled
def curves(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Lines of metrics.jsonl -> a panel per score, train and validation together.

    Scores of the training part are at threshold 0.5 and of images as they were trained on.
    """
    figure = new_figure(12.0, 5.6)
    panels = figure.subplots(2, 4)
    for axes, (title, wanted) in zip(panels.flat, PANELS, strict=True):
        for curve in wanted:
            points = [(line["epoch"], line[curve.key]) for line in lines if line.get(curve.key) is not None]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(
                    x, y, color=curve.colour, label=curve.label, linewidth=1.6, marker="o", markersize=_dot(len(x))
                )
        _finish(axes, title, unit=title not in ("Loss", "Learning rate"))
    for axes in panels[1]:
        axes.set_xlabel("epoch")
    return figure


def _dot(num_points: int) -> float:
    return 4.0 if num_points < 12 else 2.0 if num_points < 40 else 0.0


def _finish(axes: Axes, title: str, *, unit: bool) -> None:
    axes.set_title(title)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if unit:
        axes.set_ylim(0, 1)
    else:
        axes.set_ylim(bottom=0)
    shown = title in ("Loss", "Macro F1", "Ranking", "Precision, recall (micro)")  # the others repeat the second
    if shown and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7.5, loc="best")
