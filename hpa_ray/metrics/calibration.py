"""How far probabilities can be believed: what is said against what is there. Before: scores. After: report."""

from typing import NamedTuple

import numpy as np

from hpa_ray.metrics.scores import as_binary, as_probabilities, check_same_shape

# N images, K classes, B bins


class Reliability(NamedTuple):
    """Decisions on (image, class) by their probability; NaN in bins without any."""

    edges: np.ndarray  # (B + 1,)
    confidence: np.ndarray  # (B,) mean probability
    observed: np.ndarray  # (B,) share of the decisions whose image has the class
    count: np.ndarray  # type: ignore[assignment]  # (B,) int64; tuple has a method of this name
    ece: float


def reliability(probabilities: np.ndarray, targets: np.ndarray, *, bins: int = 15) -> Reliability:
    """Reliability curve of (N, K) probabilities in bins of equal width, and the expected calibration error: the mean
    distance of the two, weighted by count (Naeini et al. 2015). Raises ValueError as `score` does."""
    probability_NK, target_NK = as_probabilities(probabilities), as_binary("targets", targets)
    check_same_shape("probabilities", probability_NK.shape, target_NK.shape)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(probability_NK.ravel(), edges[1:-1]), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums, hits = (np.bincount(place, weights=values.ravel(), minlength=bins) for values in (probability_NK, target_NK))
    with np.errstate(invalid="ignore"):
        confidence, observed = sums / count, hits / count
    gap = np.where(count > 0, np.abs(confidence - observed), 0.0)
    return Reliability(edges, confidence, observed, count, float((gap * count).sum() / count.sum()))
