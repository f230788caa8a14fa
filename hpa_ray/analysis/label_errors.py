"""Probabilities and neighbours -> labels that may be wrong. Before: neighbors. After: gallery, run.

Confident learning (Northcutt, Jiang, Chuang, "Confident learning: estimating uncertainty in dataset labels", 2021,
arXiv 1911.00068), each class against the rest (Thyagarajan et al., "Identifying incorrect annotations in multi-label
classification data", 2022, arXiv 2211.13895). The probabilities must be of a model that did not train on these images:
it knows by heart what it was told, wrong labels too.

N images, K classes.
"""

from typing import NamedTuple

import numpy as np

FEWEST_GIVEN = 3
"""Images with a class, and without it, below which their mean probability says nothing."""
EVEN = 0.5


class Suspect(NamedTuple):
    position: int  # of the image among the N
    of: int  # the class
    given: int  # 1: the label is there and may be wrong; 0: it is missing and may be right
    probability: float
    score: float  # 0 to 1, the most suspect first


def suspects(
    targets_NK: np.ndarray,
    probabilities_NK: np.ndarray,
    shares_NK: np.ndarray | None = None,
    *,
    most: int | None = None,
) -> list[Suspect]:
    """Labels that model and, where given, neighbours speak against; ordered by score, then by image and class.

    A missing label is listed where the probability is at least the mean over the images that have the label, and above
    one half; a given one where it is at most the mean over those without, and below. shares_NK: the share of
    each image's neighbours that have the class; they do not decide what is listed, they are half of the score.
    """
    given = targets_NK.astype(bool)
    num_K = given.sum(axis=0)
    enough_K = (num_K >= FEWEST_GIVEN) & (len(given) - num_K >= FEWEST_GIVEN)
    with_K = (probabilities_NK * given).sum(axis=0) / np.maximum(num_K, 1)
    without_K = (probabilities_NK * ~given).sum(axis=0) / np.maximum(len(given) - num_K, 1)
    added = ~given & (probabilities_NK >= with_K) & (probabilities_NK > EVEN)
    removed = given & (probabilities_NK <= without_K) & (probabilities_NK < EVEN)
    listed_NK = (added | removed) & enough_K
    doubt_NK = np.where(given, 1 - probabilities_NK, probabilities_NK)
    if shares_NK is not None:
        doubt_NK = (doubt_NK + disagreement(targets_NK, shares_NK, otherwise_NK=doubt_NK)) / 2
    rows, classes = np.nonzero(listed_NK)
    order = np.argsort(-doubt_NK[rows, classes], kind="stable")[:most]
    return [
        Suspect(int(n), int(k), int(given[n, k]), float(probabilities_NK[n, k]), float(doubt_NK[n, k]))
        for n, k in zip(rows[order], classes[order], strict=True)
    ]


def disagreement(targets_NK: np.ndarray, shares_NK: np.ndarray, *, otherwise_NK: np.ndarray) -> np.ndarray:
    """(N, K), 0 to 1: how far the neighbours speak against a label, measured by what is usual for the class.

    Of a rare class even images that have it for sure have few neighbours with it. So the share of neighbours is divided
    by its mean over the images of the class. Where that mean is 0, or below the share of the class among all images,
    neighbours know nothing of the class, and `otherwise_NK` stands in for them.
    """
    given = targets_NK.astype(bool)
    num_K = given.sum(axis=0)
    usual_K = (shares_NK * given).sum(axis=0) / np.maximum(num_K, 1)
    relative_NK = np.clip(shares_NK / np.where(usual_K > 0, usual_K, 1), 0, 1)
    knows_K = (usual_K > 0) & (usual_K > num_K / max(len(given), 1))
    return np.where(knows_K, np.where(given, 1 - relative_NK, relative_NK), otherwise_NK)
