"""Probabilities and truth -> a threshold per class, and scores that do not flatter it. Before: scores. After: evaluate.

A threshold tuned on the images it is judged on looks better than it is, most for classes with a handful of images.
`cross_fit` therefore judges every image with thresholds tuned on other images; `tune_thresholds` on all images is for
the model that is shipped.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from hpa_ray.metrics.scores import (
    Scores,
    apply_thresholds,
    as_binary,
    as_probabilities,
    check_same_shape,
    rank,
    score_predictions,
)


def tune_thresholds(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(K,) float64 thresholds in [0, 1], each with the greatest F1 its class can reach on these (N, K) images.

    Every cut between two distinct probabilities is tried, and the threshold lies midway between them (0 is the lower
    neighbour of the lowest); of equally good cuts the highest wins. A class without positives gets the middle between
    its highest probability and 1: it is not predicted here, save at a probability of exactly 1.
    Raises ValueError as `score` does.
    """
    ranking = rank(probabilities, targets)
    score_KN, hits_KN = ranking.score_KN, ranking.hit_KN.cumsum(axis=1)
    position_N = np.arange(score_KN.shape[1])
    f1_KN = 2 * hits_KN / (position_N + 1 + hits_KN[:, -1:])
    f1_KN[ranking.last_KN != position_N] = -1.0  # equal probabilities cannot be told apart by a threshold
    cut_K = f1_KN.argmax(axis=1)[:, None]

    below_KN = np.pad(score_KN[:, 1:], ((0, 0), (0, 1)))
    lower_K, upper_K = (np.take_along_axis(x, cut_K, axis=1)[:, 0] for x in (below_KN, score_KN))
    without_K = hits_KN[:, -1] == 0
    lower_K, upper_K = np.where(without_K, score_KN[:, 0], lower_K), np.where(without_K, 1.0, upper_K)
    middle_K = lower_K + (upper_K - lower_K) / 2
    return np.where(middle_K > lower_K, middle_K, upper_K)  # neighbouring floats have no middle


def cross_fit(probabilities: np.ndarray, targets: np.ndarray, row_keys: Sequence[str], *, folds: int = 2) -> np.ndarray:
    """(N, K) bool predictions, each image judged with thresholds tuned on the images of the other folds.

    An image's fold is a hash of its id: the same in every run, whatever the order of the rows. Where the other folds
    hold no image at all (a handful of rows), the threshold is 0.5. Raises ValueError as `score` does, and for a wrong
    number of row keys or fewer than two folds.
    """
    probability_NK, target_NK = as_probabilities(probabilities), as_binary("targets", targets)
    check_same_shape("probabilities", probability_NK.shape, target_NK.shape)
    if len(row_keys) != len(target_NK):
        raise ValueError(f"{len(row_keys)} row keys for {len(target_NK)} images: pass the id of each row once")
    if folds < 2:
        raise ValueError(f"{folds=} leaves nothing to tune on: use 2 or more")
    fold_N = np.array([_stable_hash(key) % folds for key in row_keys])
    predicted_NK = apply_thresholds(probability_NK)
    for fold in np.unique(fold_N):
        here = fold_N == fold
        if not here.all():
            thresholds = tune_thresholds(probability_NK[~here], target_NK[~here])
            predicted_NK[here] = apply_thresholds(probability_NK[here], thresholds)
    return predicted_NK


def score_tuned(probabilities: np.ndarray, targets: np.ndarray, row_keys: Sequence[str], *, folds: int = 2) -> Scores:
    """`score_predictions` of `cross_fit`: what tuned thresholds are worth on images they were not tuned on."""
    return score_predictions(cross_fit(probabilities, targets, row_keys, folds=folds), targets)


def _stable_hash(key: str) -> int:
    # hash() of a str differs between processes
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
