"""Probabilities in order -> scores that need no threshold, by class and by image. Before: arrays. After: scores.

Names end in their axes: N image, K class. Ties as in scikit-learn: a positive is placed at the end of its tie group,
save for AUROC, where a tied pair counts half.
"""

from typing import NamedTuple

import numpy as np

from hpa_ray.metrics.arrays import as_pair, ratio


class Ranking(NamedTuple):
    """The items of every row by falling probability; equal probabilities form one tie group.

    A row is a class and its items the images, or the other way round (`rank_classes`).
    """

    order_KN: np.ndarray
    """int, the item at this position"""
    score_KN: np.ndarray
    """float64"""
    hit_KN: np.ndarray
    """bool, whether it is a positive"""
    first_KN: np.ndarray
    """int, first position of the tie group this position belongs to"""
    last_KN: np.ndarray
    """int, its last position"""


def rank(probabilities: np.ndarray, targets: np.ndarray) -> Ranking:
    """Sort the images of every class once, for all that depends on their order; (N, K) arrays, errors of `score`."""
    probability_NK, target_NK = as_pair(probabilities, targets)
    return _sorted(probability_NK.T, target_NK.T)


def rank_classes(probabilities: np.ndarray, targets: np.ndarray) -> Ranking:
    """Sort the classes of every image: the axes of the result are (image, position). Shapes and errors as in `rank`."""
    return _sorted(*as_pair(probabilities, targets))


def _sorted(score_KN: np.ndarray, hit_KN: np.ndarray) -> Ranking:
    order_KN = np.argsort(np.ascontiguousarray(-score_KN), axis=1)  # rows in memory: sorting is twice as fast
    score_KN = np.take_along_axis(score_KN, order_KN, axis=1)
    hit_KN = np.take_along_axis(hit_KN, order_KN, axis=1)

    num_items = score_KN.shape[1]
    position_N = np.arange(num_items)
    step_KN = score_KN[:, 1:] != score_KN[:, :-1]
    starts_KN, ends_KN = (np.pad(step_KN, ((0, 0), side), constant_values=True) for side in ((1, 0), (0, 1)))
    first_KN = np.maximum.accumulate(np.where(starts_KN, position_N, 0), axis=1)
    last_KN = np.minimum.accumulate(np.where(ends_KN, position_N, num_items)[:, ::-1], axis=1)[:, ::-1]
    return Ranking(order_KN, score_KN, hit_KN, first_KN, last_KN)


def average_precision(ranking: Ranking) -> np.ndarray:
    """(K,) float64: the mean over a class's images of the precision at the end of their tie group; NaN without any."""
    precision_KN = ranking.hit_KN.cumsum(axis=1) / np.arange(1, ranking.hit_KN.shape[1] + 1)
    at_image_KN = np.take_along_axis(precision_KN, ranking.last_KN, axis=1)
    return ratio((at_image_KN * ranking.hit_KN).sum(axis=1), ranking.hit_KN.sum(axis=1), empty=np.nan)


def auroc(ranking: Ranking) -> np.ndarray:
    """(K,) float64: share of (positive, negative) pairs in the right order, a tie counting half; NaN without a pair.

    It is the Mann-Whitney U from the mean rank of each tie group, exact in float64.
    """
    positives_K = ranking.hit_KN.sum(axis=1)
    negatives_K = ranking.hit_KN.shape[1] - positives_K
    middle_KN = (ranking.first_KN + ranking.last_KN) / 2 + 1
    wrong_pairs_K = (middle_KN * ranking.hit_KN).sum(axis=1) - positives_K * (positives_K + 1) / 2
    return 1.0 - ratio(wrong_pairs_K, positives_K * negatives_K, empty=np.nan)


def image_rankings(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """How well the classes of each image are ordered, as (N,) float64 whose means are the scores of that name.

    After Tsoumakas, Katakis, Vlahavas, "Mining multi-label data" (2010), with scikit-learn's ties:
    - coverage_error: how far down the order one has to go to meet all labels of the image; 0 without a label, the
      number of classes with all of them.
    - ranking_loss: the share of (label, other class) pairs in which the label is not strictly more probable; 0 where
      there is no pair, so without a label and with all of them.
    - label_ranking_average_precision: the mean over the labels of the share of labels among the classes at least as
      probable; 1 without a label and with all of them.
    """
    ranking = rank_classes(probabilities, targets)
    hit, last = ranking.hit_KN, ranking.last_KN
    labels_N = hit.sum(axis=1)
    labels_before = np.take_along_axis(hit.cumsum(axis=1), last, axis=1)
    wrong_N = ((last + 1 - labels_before) * hit).sum(axis=1)
    found = average_precision(ranking)
    return {
        "coverage_error": ((last + 1) * hit).max(axis=1).astype(np.float64),
        "ranking_loss": ratio(wrong_N, labels_N * (hit.shape[1] - labels_N), empty=0.0),
        "label_ranking_average_precision": np.where(labels_N == 0, 1.0, found),
    }
