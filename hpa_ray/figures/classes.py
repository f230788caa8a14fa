"""How many images each class has, and how many classes an image. Before: figures/style. After: explore, cli."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from hpa_ray.figures.style import FAINT, INK, PALETTE, SOFT, name_classes, new_figure, styled
from hpa_ray.labels import NUM_CLASSES

# K class

Counts = Sequence[int] | np.ndarray


@styled
def class_distribution(counts_by_source: Mapping[str, Counts], images_by_source: Mapping[str, int]) -> Figure:
    """Images of each class as bars on a log scale, the class with the most on top; a bar per source and class."""
    counts = {name: np.asarray(counts_K) for name, counts_K in counts_by_source.items()}
    order = by_count(sum(counts.values(), start=np.zeros(NUM_CLASSES, int)))
    many = len(counts) > 1
    figure = new_figure(8.6, 7.4 if not many else 2.0 + NUM_CLASSES * max(0.28, 0.15 * len(counts)))
    axes = figure.add_subplot()
    height = 0.78 / len(counts)
    largest = max(int(counts_K.max()) for counts_K in counts.values())
    for number, (name, counts_K) in enumerate(counts.items()):
        places = np.arange(NUM_CLASSES) + (number - (len(counts) - 1) / 2) * height
        values = counts_K[order]
        colour = PALETTE[number % len(PALETTE)]
        bars = axes.barh(
            places, values, height=height * 0.94, color=colour, label=f"{name} ({images_by_source[name]:,})"
        )
        texts = [f"{count:,}   {share(count, images_by_source[name])}" if count else "" for count in values]
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # no line of the grid through the numbers
        for place in places[values == 0]:
            axes.text(0.75, place, "none", va="center", fontsize=8 if not many else 7.5, color=SOFT)
        axes.bar_label(bars, texts, padding=4, fontsize=8.5 if not many else 7.5, color=INK, bbox=behind)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0.7, max(largest, 2) ** 1.22)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    axes.grid(axis="x")
    axes.set_xlabel("images, log scale" + ("" if many else "; with the share of all images"))
    name_classes(axes, order)
    if many:
        axes.legend(loc="lower right", title="source (images)")
    return figure


@styled
def class_shares(counts_by_part: Mapping[str, Counts], images_by_part: Mapping[str, int]) -> Figure:
    """For a split: the share of each class in each part, and how far it is from the share in all parts together.

    The gray bar is half an image either way of the part's due number: nearer than that only luck can bring a split.
    """
    counts = {name: np.asarray(counts_K) for name, counts_K in counts_by_part.items()}
    total_K = sum(counts.values(), start=np.zeros(NUM_CLASSES, int))
    num_images = sum(images_by_part.values())
    order = [k for k in by_count(total_K) if total_K[k]]
    num_parts = len(counts)
    figure = new_figure(10.0, 1.3 + len(order) * min(max(0.3, 0.115 * num_parts), 0.6))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    height = 0.8 / num_parts
    deviation = relative_deviation(counts, images_by_part)
    limit = deviation_limit(np.stack([values[order] for values in deviation.values()]))
    for number, (name, counts_K) in enumerate(counts.items()):
        offset = (number - (num_parts - 1) / 2) * height
        places, colour = np.arange(len(order)) + offset, PALETTE[number % len(PALETTE)]
        size = images_by_part[name]
        label = f"{name} ({size:,} images)"
        left.barh(places, counts_K[order] / max(size, 1), height=height * 0.9, color=colour, label=label)
        due = np.maximum(total_K[order] * size / num_images, 1e-9)
        for place, unavoidable in zip(places, np.minimum(0.5 / due, limit), strict=True):
            right.plot([-unavoidable, unavoidable], [place, place], color=FAINT, linewidth=4.5, solid_capstyle="butt")
        values = deviation[name][order]
        beyond = np.abs(values) > limit
        inside = np.where(beyond, np.nan, values)
        right.plot(inside, places, "o", color=colour, markersize=4.5)
        for place, value in zip(places[beyond], values[beyond], strict=True):
            edge = np.copysign(limit, value)
            right.plot(edge, place, ">" if value > 0 else "<", color=colour, markersize=6, clip_on=False)
            side = "right" if value > 0 else "left"
            right.annotate(
                f"{value:+.0%}", (edge, place), (-6 if value > 0 else 6, 0), textcoords="offset points", ha=side,
                va="center", fontsize=7.5,
            )  # fmt: skip
    left.set_xscale("log")
    left.xaxis.set_minor_formatter(NullFormatter())
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    left.grid(axis="x")
    left.set_xlabel("share of the part's images, log scale")
    left.set_title("Share")
    name_classes(left, order)
    right.axvline(0, color=SOFT, linewidth=0.9, zorder=1)
    right.set_xlim(-limit * 1.02, limit * 1.02)
    right.set_xticks(np.linspace(-limit, limit, 5))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+g}%" if value else "0"))
    right.set_xlabel("share in the part / share in all images - 1")
    right.set_title("Deviation from the whole")
    right.grid(axis="x")
    name_classes(right, order)
    right.set_yticklabels([])
    handles, labels = left.get_legend_handles_labels()
    whole = Line2D([], [], color=FAINT, linewidth=4.5, solid_capstyle="butt")
    figure.legend(
        [*handles, whole], [*labels, "within half an image of the due number"], loc="outside upper center",
        ncols=num_parts + 1 if num_parts < 4 else 3,
    )  # fmt: skip
    return figure


@styled
def labels_per_image(images_by_number: Mapping[int, int]) -> Figure:
    """Images by their number of classes."""
    numbers = range(min(images_by_number), max(images_by_number) + 1)
    values = [images_by_number.get(number, 0) for number in numbers]
    figure = new_figure(max(4.6, 0.95 * len(values)), 3.3)
    axes = figure.add_subplot()
    bars = axes.bar([str(number) for number in numbers], values, width=0.72, color=PALETTE[0])
    axes.bar_label(bars, [f"{value:,}\n{share(value, sum(values))}" for value in values], padding=3, fontsize=8.5)
    axes.set_xlim(-0.6, max(len(values), 4) - 0.4)
    axes.set_ylim(0, max(values) * 1.2)
    axes.set_xlabel("classes per image")
    axes.set_ylabel("images")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y")
    axes.tick_params(axis="x", length=0)
    return figure


def by_count(counts_K: np.ndarray) -> list[int]:
    """Class numbers, the one with the most images first, equal ones by number."""
    return [int(k) for k in np.argsort(-np.asarray(counts_K), kind="stable")]


def share(count: int, total: int) -> str:
    """Two digits, also of small shares: 41%, 1.2%, 0.035%."""
    if not count or not total:
        return "0%"
    percent = 100 * count / total
    decimals = next(places for places in itertools.count() if percent >= 10 ** (1 - places) or places == 6)
    return f"{percent:.{decimals}f}%"


def relative_deviation(
    counts_by_part: Mapping[str, Counts], images_by_part: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Share of each class in a part, divided by its share in all parts, minus 1; nan for a class without images."""
    total_K = sum((np.asarray(counts_K) for counts_K in counts_by_part.values()), start=np.zeros(NUM_CLASSES))
    num_images = sum(images_by_part.values())
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            name: np.asarray(counts_K) / images_by_part[name] / (total_K / num_images) - 1
            for name, counts_K in counts_by_part.items()
        }


def deviation_limit(values: np.ndarray) -> float:
    """End of the axis: most points lie within, the worst of the rarest classes are drawn at its edge."""
    finite = np.abs(values[np.isfinite(values)])
    wanted = float(np.quantile(finite, 0.9)) * 1.3 if finite.size else 0.0
    return next(limit for limit in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, float("inf")) if wanted <= limit or limit == 1.0)
