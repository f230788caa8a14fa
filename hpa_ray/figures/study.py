"""What a study of trials found: effects, trials, curves, finals. Before: figures/style. After: tune/page."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hpa_ray.figures.style import FAINT, INK, PALETTE, SOFT, class_label, new_figure, styled

# R rows (classes), E effects

GOOD, BAD = PALETTE[0], PALETTE[5]
"""Blue and vermilion: told apart with any colour vision."""
RARE_BACK = "#fdf3dc"
EMPTY = "#cfd5dd"
LINES_AT_FULL = 12
"""Up to so many lines are drawn in full strength; more become fainter."""


class Interval(NamedTuple):
    """A value with its interval; None: not known."""

    group: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    note: str = ""


class ParallelAxis(NamedTuple):
    name: str
    ticks: tuple[tuple[float, str], ...]
    """Places from 0 to 1 with their words."""


class TrialPath(NamedTuple):
    """A trial on the parallel axes."""

    places: tuple[float | None, ...]
    """From 0 to 1, None where the trial has no such dimension."""
    value: float
    label: str = ""
    """Of lines to be named."""


class TrialCurve(NamedTuple):
    epochs: Sequence[int]
    values: Sequence[float]
    kind: Literal["done", "stopped", "failed", "open"]
    group: int
    """The searched trial: its own number, or that which a final repeats."""
    is_final: bool = False


class ClassInterval(NamedTuple):
    """Of class k, or of a mean over classes where k is None."""

    k: int | None
    name: str
    value: float | None
    low: float | None
    high: float | None
    is_rare: bool = False


@styled
def effect_dots(rows: Sequence[Interval], *, score: str, larger: bool = True) -> Figure:
    """A dot and its interval per choice, grouped by dimension; gray where the interval holds 0 or is not known."""
    groups = list(dict.fromkeys(row.group for row in rows))
    places, heads, place = [], [], 0.0
    for group in groups:
        heads.append(place)
        for row in rows:
            if row.group == group:
                place += 1
                places.append(place)
        place += 1.5
    ordered = [row for group in groups for row in rows if row.group == group]
    figure = new_figure(8.6, 1.3 + 0.23 * max(place, 3))
    axes = figure.add_subplot()
    axes.axvline(0, color=SOFT, linewidth=0.9, zorder=1)
    for at, row in zip(places, ordered, strict=True):
        if row.value is None:
            axes.plot(0, at, "|", color=SOFT, markersize=6)
            continue
        colour = _verdict(row.value, row.low, row.high, larger=larger)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [at, at], color=colour, linewidth=2.0, solid_capstyle="butt")
        full = row.low is not None
        axes.plot(row.value, at, "o", color=colour, markersize=5.5, markerfacecolor=colour if full else "white")
    axes.set_yticks(places, [row.name for row in ordered])
    axes.set_ylim(max(place, 3) - 0.6, -0.9)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    _symmetric(axes, [(row.value, row.low, row.high) for row in ordered])
    for group, at in zip(groups, heads, strict=True):
        axes.text(0, at, group, transform=axes.get_yaxis_transform(), fontweight="bold", va="center")
    for at, row in zip(places, ordered, strict=True):
        axes.text(1.01, at, row.note, transform=axes.get_yaxis_transform(), color=SOFT, fontsize=8, va="center")
    axes.text(1.01, -0.9, "trials", transform=axes.get_yaxis_transform(), color=SOFT, fontsize=8, va="center")
    axes.set_xlabel(f"difference in {score} to the mean of the dimension")
    _verdict_legend(figure, "helps" if larger else "hurts", "hurts" if larger else "helps")
    return figure


@styled
def class_effects(
    values_RE: np.ndarray,
    clear_RE: np.ndarray,
    classes: Sequence[int],
    columns: Sequence[tuple[str, str]],
    *,
    score: str,
) -> Figure:
    """Heat map of classes by choices; a number and a frame where the interval does not hold 0. NaN: not known.

    columns: (dimension, choice), those of a dimension side by side.
    """
    num_rows, num_columns = values_RE.shape
    names = [name for _, name in columns]
    longest = max((len(name) for name in names), default=1)
    figure = new_figure(max(4.4 + 0.46 * num_columns, 6.0), 2.5 + 0.32 * num_rows + 0.055 * longest)
    axes = figure.add_subplot()
    axes.set_facecolor(EMPTY)
    limit = _limit(values_RE)
    image = axes.imshow(values_RE, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(values_RE):
        if clear_RE[row, column] and math.isfinite(value):
            colour = "white" if abs(value) > 0.62 * limit else INK
            text = f"{value:+.2f}".replace("0.", ".").replace("-", "\u2212")
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour, fontweight="bold")
            axes.add_patch(Rectangle((column - 0.42, row - 0.42), 0.84, 0.84, fill=False, edgecolor=INK, linewidth=1.1))
    axes.set_xticks(range(num_columns), names, rotation=90)
    axes.set_yticks(range(num_rows), [class_label(k) for k in classes])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    start = 0
    for group in dict.fromkeys(group for group, _ in columns):
        size = sum(other == group for other, _ in columns)
        if start:
            axes.axvline(start - 0.5, color="white", linewidth=3)
        axes.text(start - 0.35, -0.65, group, ha="left", va="bottom", rotation=30, fontweight="bold", fontsize=8.5)
        start += size
    bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=18, pad=0.02, ticks=np.linspace(-limit, limit, 5))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(_signed))
    bar.set_label(f"difference in\n{score}")
    bar.outline.set_visible(False)
    return figure


@styled
def parallel_trials(
    axes_: Sequence[ParallelAxis], paths: Sequence[TrialPath], *, score: str, larger: bool = True
) -> Figure:
    """A line per trial through its values, coloured by what it reached; the best are drawn last. Below: not set."""
    figure = new_figure(max(1.55 * len(axes_) + 1.4, 6.0), 4.6)
    axes = figure.add_subplot()
    values = [path.value for path in paths]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5e-3, high + 0.5e-3
    shades = colormaps["viridis" if larger else "viridis_r"]
    norm = Normalize(low, high)
    named: list[tuple[float, str]] = []
    rng = np.random.default_rng(0)  # lines of one choice lie side by side
    for path in sorted(paths, key=lambda path: path.value if larger else -path.value):
        off = float(rng.uniform(-0.022, 0.022))
        places = [-0.17 if place is None else place for place in path.places]
        x, y = _smooth(np.arange(len(places), dtype=float), np.array(places) + off)
        best = bool(path.label)
        alpha = 1.0 if best else max(0.35, min(0.85, LINES_AT_FULL / len(paths) + 0.3))
        if best:
            axes.plot(x, y, color=INK, linewidth=4.2, solid_capstyle="round")
        axes.plot(x, y, color=shades(norm(path.value)), linewidth=2.4 if best else 1.3, alpha=alpha)
        if best:
            named.append((float(y[-1]), path.label))
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.82, "pad": 0.9}
    for number, axis in enumerate(axes_):
        axes.axvline(number, color=SOFT, linewidth=1.0, zorder=1)
        for place, word in axis.ticks:
            axes.plot(number, place, "_", color=INK, markersize=7)
            axes.text(number + 0.035, place + 0.028, word, fontsize=8, va="bottom", bbox=behind, zorder=5)
        if any(path.places[number] is None for path in paths):
            axes.text(number + 0.035, -0.142, "not set", fontsize=7.5, color=SOFT, va="bottom", bbox=behind, zorder=5)
    last, at = float(len(axes_) - 1), -math.inf
    for y_end, label in sorted(named):
        at = max(y_end, at + 0.06)  # names of neighbours do not run into each other
        axes.plot([last, last + 0.5], [y_end, at], color=INK, linewidth=0.8)
        axes.text(last + 0.52, at, label, fontsize=8, va="center", color=INK)
    axes.set_xticks(range(len(axes_)), [axis.name.replace(".", ".\n", 1) for axis in axes_])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_ylim(-0.22, 1.12)
    axes.set_xlim(-0.1, len(axes_) - 1 + 1.0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, shades), ax=axes, shrink=0.8, aspect=22, pad=0.01)
    bar.set_label(score)
    bar.outline.set_visible(False)
    return figure


@styled
def study_curves(curves: Sequence[TrialCurve], *, score: str, winner: int | None) -> Figure:
    """Searched trials on the left, with a mark where one was stopped; on the right the finals, a colour for each."""
    repeated = sorted({curve.group for curve in curves if curve.is_final})
    searched = [curve for curve in curves if not curve.is_final]
    figure = new_figure(11.0 if repeated else 7.4, 4.2)
    panels: list[Axes] = list(figure.subplots(1, 2, sharey=True)) if repeated else [figure.add_subplot()]
    left = panels[0]
    faint = max(0.35, min(0.9, LINES_AT_FULL / max(len(searched), 1) + 0.25))
    colours = {"done": PALETTE[4], "stopped": "#a9b2bd", "failed": PALETTE[3], "open": PALETTE[2]}
    marks = {"stopped": "x", "failed": "X"}
    for curve in sorted(searched, key=lambda curve: (curve.group in (0, winner), curve.kind == "done")):
        colour, width, alpha = colours[curve.kind], 1.2, faint
        if curve.group in (0, winner):
            colour, width, alpha = INK if curve.group == 0 else BAD, 2.4, 1.0
        left.plot(curve.epochs, curve.values, color=colour, linewidth=width, alpha=alpha)
        if curve.kind in marks and len(curve.epochs):
            mark = {"marker": marks[curve.kind], "color": colours[curve.kind] if curve.kind == "failed" else SOFT}
            left.plot(curve.epochs[-1], curve.values[-1], markersize=5, linestyle="none", zorder=4, **mark)  # type: ignore[arg-type]
    handles = [Line2D([], [], color=INK, linewidth=2.4, label="baseline")]
    if winner:
        handles.append(Line2D([], [], color=BAD, linewidth=2.4, label=f"winner, trial {winner}"))
    for kind, label in (("done", "all epochs"), ("stopped", "stopped"), ("failed", "failed"), ("open", "not over")):
        if any(curve.kind == kind for curve in searched):
            mark_of = marks.get(kind)
            handles.append(
                Line2D(
                    [],
                    [],
                    color=colours[kind],
                    marker=mark_of,
                    markersize=5,
                    label=label,
                    markeredgecolor=SOFT if kind == "stopped" else colours[kind],
                )
            )
    left.legend(handles=handles, fontsize=8, loc="best")
    left.set_title("Search: every trial")
    for panel in panels:
        panel.set_xlabel("epoch")
        panel.grid(axis="y")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    left.set_ylabel(f"{score}, validation")
    if repeated:
        _final_curves(panels[1], [curve for curve in curves if curve.is_final], repeated, winner)
    return figure


@styled
def final_differences(
    panels: Sequence[tuple[str, Sequence[ClassInterval]]],
    *,
    score: str,
    larger: bool = True,
    against: str = "the baseline, test part",
) -> Figure:
    """Per class, how far each final lies from the baseline; a panel per final, rows as given, rare classes marked."""
    rows = panels[0][1]
    num_means = sum(row.k is None for row in rows)
    places = [number if row.k is None else number + 0.6 * (num_means > 0) for number, row in enumerate(rows)]
    figure = new_figure(3.0 + max(2.6 * len(panels), 3.6), 1.7 + 0.225 * len(rows))
    drawn = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for number, (axes, (title, of_final)) in enumerate(zip(drawn, panels, strict=True)):
        axes.axvline(0, color=SOFT, linewidth=0.9, zorder=1)
        for at, row in zip(places, of_final, strict=True):
            if row.is_rare:
                axes.axhspan(at - 0.5, at + 0.5, color=RARE_BACK, linewidth=0, zorder=0)
            if row.value is None:
                behind = {"facecolor": RARE_BACK if row.is_rare else "white", "edgecolor": "none", "pad": 1.5}
                axes.text(0, at, "no image", fontsize=7.5, color=SOFT, ha="center", va="center", bbox=behind)
                continue
            colour = _verdict(row.value, row.low, row.high, larger=larger)
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [at, at], color=colour, linewidth=1.8, solid_capstyle="butt")
            axes.plot(row.value, at, "D" if row.k is None else "o", color=colour, markersize=5.0)
        axes.set_yticks(places, [row.name if row.k is None else class_label(row.k) for row in rows])
        axes.set_ylim(places[-1] + 0.6, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_title(title)
        if number:
            axes.set_yticklabels([])
        else:
            for label, row in zip(axes.get_yticklabels(), rows, strict=True):
                label.set_fontweight("bold" if row.k is None or row.is_rare else "normal")
    _symmetric(drawn[0], [(row.value, row.low, row.high) for _, of_final in panels for row in of_final])
    figure.supxlabel(f"difference in {score} to {against}", fontsize=9, color=INK)
    _verdict_legend(figure, "better", "worse", rare=any(row.is_rare for row in rows))
    return figure


def _final_curves(axes: Axes, curves: Sequence[TrialCurve], repeated: Sequence[int], winner: int | None) -> None:
    free = [colour for colour in PALETTE if colour not in (INK, BAD, "#F0E442")]  # yellow can not be read on white
    others = [group for group in repeated if group not in (0, winner)]
    for group in repeated:
        colour = INK if group == 0 else BAD if group == winner else free[others.index(group) % len(free)]
        some = [curve for curve in curves if curve.group == group]
        label = "baseline" if group == 0 else f"trial {group}{' (winner)' if group == winner else ''}"
        for number, curve in enumerate(some):
            text = f"{label}, {len(some)} {'seed' if len(some) == 1 else 'seeds'}" if number == 0 else None
            axes.plot(curve.epochs, curve.values, color=colour, linewidth=1.4, alpha=0.9, label=text)
    axes.set_title("Finals: again with several seeds")
    axes.legend(fontsize=8, loc="best")
    axes.tick_params(labelleft=True)


def _verdict(value: float, low: float | None, high: float | None, *, larger: bool) -> str:
    if low is None or high is None or (low <= 0 <= high):
        return "#8A8F98"
    return GOOD if (value > 0) == larger else BAD


def _verdict_legend(figure: Figure, right: str, left: str, *, rare: bool = False) -> None:
    blue, red = (right, left) if right in ("helps", "better") else (left, right)
    dot = {"marker": "o", "markersize": 5.5, "linewidth": 2.0}
    handles: list[Line2D | Rectangle] = [
        Line2D([], [], color=GOOD, label=blue, **dot),  # type: ignore[arg-type]
        Line2D([], [], color=BAD, label=red, **dot),  # type: ignore[arg-type]
        Line2D([], [], color="#8A8F98", label="within noise (95 % interval holds 0)", **dot),  # type: ignore[arg-type]
    ]
    if rare:
        handles.append(Rectangle((0, 0), 1, 1, facecolor=RARE_BACK, edgecolor=FAINT, label="rare class"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8)


def _symmetric(axes: Axes, values: Sequence[tuple[float | None, float | None, float | None]]) -> None:
    """An axis around 0 that holds all dots and nearly all of the intervals; the few that are wider run out of it."""
    dots = [abs(dot) for dot, _, _ in values if dot is not None]
    ends = [abs(end) for _, low, high in values for end in (low, high) if end is not None and math.isfinite(end)]
    limit = max(max(dots, default=0.0), float(np.quantile(ends, 0.97)) if ends else 0.0, 1e-4) * 1.12
    axes.set_xlim(-limit, limit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, symmetric=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_signed))


def _limit(values: np.ndarray) -> float:
    """End of the colour scale: the largest value, rounded up to a number whose half is short too."""
    largest = max(float(np.abs(values[np.isfinite(values)]).max(initial=0.0)), 1e-3)
    unit = 10.0 ** math.floor(math.log10(largest))
    return next(step * unit for step in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if largest <= step * unit * (1 + 1e-9))


def _signed(value: float, _: int | None = None) -> str:
    return f"{value:+.2g}".replace("-", "\u2212") if abs(value) > 1e-12 else "0"


def _smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve that is flat at the axes, so that two lines through one choice can be told apart between them."""
    if len(x) < 2:
        return np.repeat(x, 2), np.repeat(y, 2)
    steps = np.linspace(0, 1, 13)
    ease = steps * steps * (3 - 2 * steps)
    points = [(x[i] + steps, y[i] + (y[i + 1] - y[i]) * ease) for i in range(len(x) - 1)]
    return np.concatenate([point[0] for point in points]), np.concatenate([point[1] for point in points])
