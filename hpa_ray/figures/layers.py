"""The layers of a network as a table with bars. Before: figures/style. After: cli, train."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from hpa_ray.figures.classes import share
from hpa_ray.figures.style import FAINT, INK, PALETTE, SOFT, new_figure, styled

LayerRow = tuple[str, str, Sequence[int], int]
"""Name, kind, output shape without the batch, number of parameters."""

ROW_IN = 0.235
COLUMNS_EM = 0.092
"""Width in inches of a character of the table, on average."""
BARS_IN = 2.6
MOST_CHARACTERS = 40
"""Of a name or kind; what is in the middle of a longer one is left out."""

LEAST_SHARE = 1e-4
"""Below it the number says nothing more."""


@styled
def layers_figure(rows: Sequence[LayerRow], *, title: str = "", input_shape: Sequence[int] = ()) -> Figure:
    """A line per layer from the input down: name, kind, shape of its output, and its parameters with a bar.

    The bars are linear, so that they show where the parameters are. Lines of one stage (the same beginning of the name
    before its last dot) stand together on one ground.
    """
    total = sum(count for *_, count in rows)
    largest = max((count for *_, count in rows), default=0) or 1
    table = [
        (_short(name), _short(kind), _shape(shape), f"{count:,}" if count else "-") for name, kind, shape, count in rows
    ]
    if input_shape:
        table.insert(0, ("input", "", _shape(input_shape), "-"))
    heads = ("layer", "kind", "output", "parameters")
    sums = ("total", "", "", f"{total:,}")
    widths = [COLUMNS_EM * max(len(line[k]) for line in (heads, sums, *table)) + 0.25 for k in range(4)]
    # the columns of words begin at their left edge, that of numbers ends at its right
    edges = [sum(widths[:k]) for k in range(5)]
    places = (*edges[:3], edges[4] - 0.15)
    width = edges[4] + BARS_IN + 0.7
    top = -2.8 if title else -1.6
    figure = new_figure(width + 0.2, ROW_IN * (len(table) + 0.6 - top))
    axes = figure.add_subplot()
    axes.axis("off")
    axes.text(0, -2.2, title, va="center", fontsize=10, fontweight="bold")

    def line(y: float, texts: Sequence[str], **style: object) -> None:
        for k, (x, text) in enumerate(zip(places, texts, strict=True)):
            axes.text(x, y, text, ha="right" if k == 3 else "left", va="center", **style)  # type: ignore[arg-type]

    line(-1, heads, fontweight="bold")
    axes.text(edges[4], -1, "share of all", va="center", fontweight="bold")
    axes.plot([-0.1, width], [-0.5, -0.5], color=INK, linewidth=0.9)
    ground = False
    for y, cells in enumerate(table):
        ground ^= y > 0 and _stage(cells[0]) != _stage(table[y - 1][0])
        if ground:
            axes.axhspan(y - 0.5, y + 0.5, color=FAINT, alpha=0.4, linewidth=0)
        line(y, cells, color=INK if cells[3] != "-" else SOFT)
    first = len(table) - len(rows)
    counts = [count for *_, count in rows]
    texts = [_share(count, total) if count else "" for count in counts]
    bars = axes.barh(
        range(first, len(table)), [count / largest * BARS_IN for count in counts], left=edges[4], height=0.62,
        color=PALETTE[0],
    )  # fmt: skip
    axes.bar_label(bars, texts, padding=4, fontsize=8, color=SOFT)
    axes.plot([-0.1, width], [len(table) - 0.5, len(table) - 0.5], color=INK, linewidth=0.9)
    line(len(table) + 0.05, sums, fontweight="bold")
    axes.set_xlim(-0.1, width)
    axes.set_ylim(len(table) + 0.6, top)
    return figure


def _share(count: int, total: int) -> str:
    return share(count, total) if count >= LEAST_SHARE * total else f"below {LEAST_SHARE:.2%}"


def _stage(name: str) -> str:
    return name.rpartition(".")[0]


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(f"{size}" for size in shape)


def _short(text: str) -> str:
    half = MOST_CHARACTERS // 2 - 1
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}..{text[-half:]}"
