"""Probabilities and truth -> the points of a precision-recall curve. Before: ranking. After: report."""

from typing import NamedTuple

import numpy as np

from hpa_ray.metrics.arrays import as_pair


class PrecisionRecall(NamedTuple):
    precision: np.ndarray
    """(T + 1,) float64; a last point of 1 at recall 0 closes the curve."""
    recall: np.ndarray
    """(T + 1,) float64, falling."""
    threshold: np.ndarray
    """(T,) float64, the distinct probabilities, rising; precision[t] and recall[t] are of what is >= threshold[t]."""


def precision_recall(probabilities_N: np.ndarray, targets_N: np.ndarray) -> PrecisionRecall:
    """Every point that one class can reach by its threshold; flattened (N, K) arrays give the micro curve.

    (N,) probabilities in [0, 1], (N,) targets of 0 and 1. The convention is scikit-learn's precision_recall_curve.
    Raises ValueError as `score` does, and without a positive, where recall is not defined.
    """
    probability_N1, target_N1 = as_pair(np.asarray(probabilities_N)[:, None], np.asarray(targets_N)[:, None])
    if not target_N1.any():
        raise ValueError("no target is 1, so there is no recall to draw: leave the class out")
    order_N = np.argsort(-probability_N1[:, 0], kind="stable")
    score_N, hit_N = probability_N1[order_N, 0], target_N1[order_N, 0]
    end_T = np.flatnonzero(np.append(score_N[1:] != score_N[:-1], True))[::-1]
    hits_T = hit_N.cumsum()[end_T]
    return PrecisionRecall(
        np.append(hits_T / (end_T + 1), 1.0), np.append(hits_T / hit_N.sum(), 0.0), score_N[end_T].copy()
    )
