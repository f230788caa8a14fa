"""A map of images, coloured by class. Before: figures/style. After: analysis."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from hpa_ray.figures.style import FAINT, PALETTE, class_label, new_figure, styled

# N images, K class

MARKERS = ("o", "^", "s")
NO_CLASS = -1
SIDE_IN = 6.2
NAMES = {"pca": "principal component", "umap": "UMAP"}
MANY = 1500
"""Images from which on points are small and let others shine through."""


@styled
def embedding_map(
    points_N2: np.ndarray,
    targets_NK: np.ndarray,
    *,
    method: str = "pca",
    explained: Sequence[float] | None = None,
) -> Figure:
    """A point per image in the colour and shape of the rarest class that is on it, rare among these images.

    By the commonest nearly all points would be nucleoplasm or cytosol. The legend names the classes that have points,
    those with most images first, and how many points; ten colours times three shapes are enough for 28 classes. Rare
    classes are drawn last, over the others. method, explained: as analysis/maps gives them, for the axes.
    """
    shown_N = rarest_class(targets_NK)
    counts_K = targets_NK.sum(axis=0, dtype=np.int64)
    classes = sorted({int(k) for k in shown_N}, key=lambda k: (k == NO_CLASS, -counts_K[k] if k >= 0 else 0, k))
    figure = new_figure(SIDE_IN + (2.6 if len(classes) else 0), SIDE_IN)
    axes = figure.add_subplot()
    many = len(points_N2) > MANY
    for place, k in enumerate(classes):
        x_N, y_N = points_N2[shown_N == k].T
        known = k != NO_CLASS
        axes.scatter(
            x_N,
            y_N,
            s=9 if many else 22,
            c=PALETTE[place % len(PALETTE)] if known else FAINT,
            marker=MARKERS[place // len(PALETTE) % len(MARKERS)],
            edgecolors="white",
            linewidths=0.2 if many else 0.4,
            alpha=0.75 if many else 0.9,
            zorder=3 + place if known else 2,
            label=f"{class_label(k) if known else 'no class'}  ({len(x_N):,})",
        )
    for place, (axis, name) in enumerate(zip((axes.xaxis, axes.yaxis), ("first", "second"), strict=True)):
        share = f" ({explained[place]:.0%} of the variance)" if explained is not None else ""
        word = NAMES.get(method, method)
        axis.set_label_text(f"{name} {word}{share}" if method == "pca" else f"{word} {place + 1}")
        axis.set_ticks([])  # the numbers mean nothing
    axes.set_title(f"{len(points_N2):,} images, by the rarest class on each")
    if classes:
        legend = figure.legend(
            loc="outside right upper", fontsize=8, markerscale=2 if many else 1, handletextpad=0.3, labelspacing=0.35
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return figure


def rarest_class(targets_NK: np.ndarray) -> np.ndarray:
    """(N,) int: of the classes on each image that which fewest of these images have; NO_CLASS where there is none."""
    counts_K = targets_NK.sum(axis=0, dtype=np.int64)
    counts_NK = np.where(targets_NK > 0, counts_K, np.iinfo(np.int64).max)
    return np.where(targets_NK.any(axis=1), counts_NK.argmin(axis=1), NO_CLASS)
