"""Images on a map of what a model sees of them. Before: figures/style. After: report."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from hpa_ray.figures.style import FAINT, PALETTE, class_label, styled

# N images, K classes

SHAPES = ("o", "s", "^")


@styled
def embedding_map(
    points_N2: np.ndarray, targets_NK: np.ndarray, *, method: str = "pca", explained: Sequence[float] | None = None
) -> Figure:
    """A point per image, in colour and shape of its rarest class here; gray without any."""
    counts_K = targets_NK.sum(axis=0, dtype=np.int64)
    rarest_N = np.where(targets_NK.any(axis=1), np.where(targets_NK > 0, counts_K, len(targets_NK) + 1).argmin(1), -1)
    figure = Figure(figsize=(10.0, 6.2))
    axes = figure.add_axes((0.06, 0.08, 0.62, 0.88))
    for number, k in enumerate(sorted(set(rarest_N.tolist()), key=lambda k: -counts_K[k] if k >= 0 else 1)):
        here = rarest_N == k
        colour = PALETTE[number % len(PALETTE)] if k >= 0 else FAINT
        shape = SHAPES[number // len(PALETTE) % len(SHAPES)]
        label = f"{class_label(k) if k >= 0 else 'no class'} ({here.sum()})"
        axes.plot(*points_N2[here].T, shape, color=colour, markersize=5, alpha=0.85, label=label)
    shares = [f" ({share:.0%})" for share in explained[:2]] if explained else ["", ""]
    axes.set_xlabel(f"{method} 1{shares[0]}")
    axes.set_ylabel(f"{method} 2{shares[1]}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=7.5, handletextpad=0.2, borderaxespad=0)
    return figure
