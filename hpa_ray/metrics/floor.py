"""Truth -> the best score without looking at an image: what a model must beat. Before: manifest. After: evaluate."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from hpa_ray.metrics.arrays import as_binary
from hpa_ray.metrics.scores import Scores, score_predictions


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The best that one fixed label set, predicted for every image, can reach, and the smallest set that reaches it."""

    macro_f1: float
    macro_labels: tuple[int, ...]
    micro_f1: float
    micro_labels: tuple[int, ...]


def constant_floor(targets: np.ndarray) -> Floor:
    """Best macro and micro F1 over all 2^K fixed label sets, for (N, K) targets of 0 and 1.

    Macro F1: predicted everywhere, a class with share p of the images has precision p and recall 1, so it adds
    2p / (1 + p) >= 0 to the sum over classes, whatever the other classes do; left out it adds 0. So every class that
    occurs belongs to the best set.

    Micro F1: a set of m classes with c labels among the T labels of the table scores 2c / (m N + T). For a given m only
    c depends on the choice, so the m most frequent classes are best, and one of the K prefixes of the classes by
    falling frequency is best of all.

    Raises ValueError for values other than 0 and 1 and for no images.
    """
    target_NK = as_binary("targets", targets)
    count_K = target_NK.sum(axis=0)
    share_K = count_K / len(target_NK)
    macro_f1 = float((2 * share_K / (1 + share_K)).mean())
    macro_labels = tuple(np.flatnonzero(count_K).tolist())
    if not macro_labels:
        return Floor(macro_f1=0.0, macro_labels=(), micro_f1=0.0, micro_labels=())

    by_frequency_K = np.argsort(-count_K, kind="stable")
    size_K = np.arange(1, len(count_K) + 1)
    micro_f1_K = 2 * count_K[by_frequency_K].cumsum() / (size_K * len(target_NK) + count_K.sum())
    best = int(micro_f1_K.argmax())
    micro_labels = tuple(sorted(by_frequency_K[: best + 1].tolist()))
    return Floor(
        macro_f1=macro_f1, macro_labels=macro_labels, micro_f1=float(micro_f1_K[best]), micro_labels=micro_labels
    )


def score_constant(targets: np.ndarray, labels: Collection[int]) -> Scores:
    """`score_predictions` of the same class numbers for every image; (N, K) targets of 0 and 1. Raises ValueError."""
    target_NK = as_binary("targets", targets)
    unknown = [k for k in labels if not 0 <= k < target_NK.shape[1]]
    if unknown:
        raise ValueError(f"class {unknown[0]} is not one of {target_NK.shape[1]}: use 0 to {target_NK.shape[1] - 1}")
    predicted_NK = np.zeros_like(target_NK)
    predicted_NK[:, list(labels)] = True
    return score_predictions(predicted_NK, target_NK)
