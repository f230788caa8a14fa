"""Decisions and truth -> what is predicted instead of what was missed. Before: metrics. After: run, figures.

N images, K classes; the first of two K is the missed one (i), the second the one predicted instead (j).

Of images with several labels there is no confusion matrix: nothing says which wrong class took the place of which
right one. Counted is what happens on one image: i is on it and was missed, j is not on it and was predicted. An image
with two missed and two wrong classes gives four pairs, of which two or none may be real confusions; the lift tells
pairs that come together more often than j is wrongly predicted anywhere. That two classes are confused does not say
why: they may look alike, share images with a third class, or be labelled inconsistently.
"""

from typing import NamedTuple

import numpy as np

FEWEST_IMAGES = 3


class Confusions(NamedTuple):
    counts_KK: np.ndarray  # int64, images on which i was missed and j wrongly predicted
    share_KK: np.ndarray  # float64, of the images with i missed and without j; nan where there are none
    lift_KK: np.ndarray  # float64, that share over the share of all images without j on which j is predicted; or nan
    missed_K: np.ndarray  # int64, images on which i was missed


class Pair(NamedTuple):
    missed: int
    predicted: int
    images: int
    share: float
    lift: float


class Leaning(NamedTuple):
    """Towards a class that is not on the image, by probability, whatever the thresholds."""

    of: int
    towards: int
    images: int  # with the first and without the second
    probability: float  # mean probability of the second on them
    base: float  # on all images without the second


def confusions(targets_NK: np.ndarray, predicted_NK: np.ndarray) -> Confusions:
    """(N, K) truth and decisions of 0 and 1."""
    truth, predicted = targets_NK.astype(bool), predicted_NK.astype(bool)
    missed, wrong, absent = (_wide(x) for x in (truth & ~predicted, predicted & ~truth, ~truth))
    counts_KK = missed.T @ wrong
    with np.errstate(divide="ignore", invalid="ignore"):
        share_KK = counts_KK / (missed.T @ absent)
        lift_KK = share_KK / (wrong.sum(axis=0) / absent.sum(axis=0))
    for values_KK in (share_KK, lift_KK):
        np.fill_diagonal(values_KK, np.nan)  # a missed class is on the image
        values_KK[~np.isfinite(values_KK)] = np.nan
    return Confusions(counts_KK.astype(np.int64), share_KK, lift_KK, missed.sum(axis=0).astype(np.int64))


def top_pairs(found: Confusions, *, most: int = 40, fewest_images: int = FEWEST_IMAGES) -> list[Pair]:
    """Pairs that come together more often than by j's own rate, on so many images or more.

    The most images beyond what that rate gives come first: a lift alone would put the rarest pairs on top.
    """
    listed = (found.counts_KK >= fewest_images) & (np.nan_to_num(found.lift_KK) > 1)
    beyond_KK = np.where(listed, found.counts_KK * (1 - 1 / np.where(listed, found.lift_KK, 1)), 0)
    order = np.argsort(-beyond_KK, axis=None, kind="stable")[: min(most, int(listed.sum()))]
    pairs = zip(*np.unravel_index(order, beyond_KK.shape), strict=True)
    return [
        Pair(int(i), int(j), int(found.counts_KK[i, j]), float(found.share_KK[i, j]), float(found.lift_KK[i, j]))
        for i, j in pairs
    ]


def leaning_probabilities(targets_NK: np.ndarray, probabilities_NK: np.ndarray) -> np.ndarray:
    """(K, K) float64: mean probability of j on the images of i without j; nan where there are none."""
    truth, absent = _wide(targets_NK), _wide(targets_NK == 0)
    with np.errstate(invalid="ignore"):
        mean_KK: np.ndarray = (truth.T @ (probabilities_NK * absent)) / (truth.T @ absent)
    return mean_KK


def top_leanings(
    targets_NK: np.ndarray, probabilities_NK: np.ndarray, *, most: int = 40, fewest_images: int = FEWEST_IMAGES
) -> list[Leaning]:
    """Where the mean probability of j on images of i is furthest above that on all images without j."""
    absent = _wide(targets_NK == 0)
    num_KK = (_wide(targets_NK).T @ absent).astype(np.int64)
    mean_KK = leaning_probabilities(targets_NK, probabilities_NK)
    base_K = (probabilities_NK * absent).sum(axis=0) / np.maximum(absent.sum(axis=0), 1)
    above_KK = np.where(num_KK >= fewest_images, np.nan_to_num(mean_KK) - base_K, 0)
    order = np.argsort(-above_KK, axis=None, kind="stable")[: min(most, int((above_KK > 0).sum()))]
    return [
        Leaning(int(i), int(j), int(num_KK[i, j]), float(mean_KK[i, j]), float(base_K[j]))
        for i, j in zip(*np.unravel_index(order, above_KK.shape), strict=True)
    ]


def _wide(values_NK: np.ndarray) -> np.ndarray:
    """float64: exact for counts, and multiplied a hundred times as fast as integers."""
    return values_NK.astype(np.float64)
