"""A run against time, and runs against each other. Before: figures/style. After: report."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hpa_ray.figures.style import INK, PALETTE, SOFT, styled

COLOURS = tuple(colour for colour in PALETTE if colour != "#F0E442")  # yellow can not be read on white
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = ((0, ()), (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))


class RunCurve(NamedTuple):
    name: str
    epochs: Sequence[int]
    values: Sequence[float]


class ScoreDifference(NamedTuple):
    """Of one score of a run, to that of the first run, with its interval."""

    score: str
    run: int
    value: float
    low: float
    high: float


@styled
def feed(epochs: Sequence[int], images_per_s: Sequence[float], wait_pct: Sequence[float]) -> Figure:
    """Speed and the share of the time in which the device waited for data, by epoch."""
    figure = Figure(figsize=(9.6, 2.9))
    panels = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.18, top=0.88, wspace=0.2)
    rows = (("Images per second", images_per_s, PALETTE[0]), ("Waiting for data, % of the time", wait_pct, PALETTE[5]))
    for axes, (title, values, colour) in zip(panels, rows, strict=True):
        axes.bar(epochs, values, color=colour, width=0.8)
        axes.set_ylim(0, max([*values, 1.0]) * 1.12)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
    return figure


@styled
def run_curves(panels: Sequence[tuple[str, Sequence[RunCurve]]], names: Sequence[str]) -> Figure:
    """A panel per score, a line per run; colour and dashes together tell up to 36 runs apart."""
    figure = Figure(figsize=(4.0 * len(panels), 3.5 + 0.22 * -(-len(names) // 4)))
    legend = 0.32 + 0.22 * -(-len(names) // 4)
    height = figure.get_figheight()
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.5 / height, top=1 - (legend + 0.3) / height, wspace=0.18)
    for axes, (title, curves) in zip(drawn, panels, strict=True):
        for curve in curves:
            number = names.index(curve.name)
            small = 4.0 if len(curve.epochs) < 12 else 0.0
            axes.plot(
                curve.epochs, curve.values, color=_colour(number), linestyle=_dash(number), linewidth=1.6, marker="o",
                markersize=small,
            )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
    handles = [Line2D([], [], color=_colour(k), linestyle=_dash(k), linewidth=1.6) for k in range(len(names))]
    figure.legend(handles, names, loc="upper center", ncols=min(4, len(names)), fontsize=8.5)
    return figure


@styled
def score_differences(differences: Sequence[ScoreDifference], names: Sequence[str], *, first: str) -> Figure:
    """Each run against the first: dots with intervals, a row per score and run."""
    scores = list(dict.fromkeys(one.score for one in differences))
    runs = sorted({one.run for one in differences})
    num_rows = len(scores) * len(runs) + 0.8 * (len(scores) - 1)
    figure = Figure(figsize=(8.6, 1.25 + 0.3 * num_rows))
    axes = figure.add_subplot()
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.36, right=0.97, bottom=0.5 / height, top=1 - 0.3 / height)
    axes.axvline(0, color=INK, linewidth=0.9)
    ticks, labels = [], []
    for one in differences:
        at = scores.index(one.score) * (len(runs) + 0.8) + runs.index(one.run)
        clear = one.low > 0 or one.high < 0
        colour = _colour(one.run)
        axes.plot([one.low, one.high], [at, at], color=colour, linewidth=2, alpha=1 if clear else 0.55)
        axes.plot(one.value, at, "o", color=colour if clear else "white", markeredgecolor=colour, markersize=6)
        ticks.append(at)
        labels.append(f"{one.score}, {names[one.run]}")
    axes.set_yticks(ticks, labels, fontsize=8.5)
    axes.set_ylim(max(ticks) + 0.6, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"difference to {first}; hollow: the 95 % interval holds 0", color=SOFT)
    axes.margins(x=0.06)
    axes.grid(axis="x")
    return figure


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _dash(number: int) -> tuple[float, tuple[float, ...]]:
    return DASHES[number // len(COLOURS) % len(DASHES)]
