"""Predictions and truth -> images worth looking at, per class. Before: metrics. After: gallery.

N images, K classes.
"""

from collections.abc import Iterator
from itertools import chain, zip_longest
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["best", "worst", "surprising", "label_error"]
LEAST_PROBABILITY = 1e-7


class Example(NamedTuple):
    position: int  # of the image among the N
    kind: Kind
    of: int  # the class


def examples(
    targets_NK: np.ndarray, probabilities_NK: np.ndarray, thresholds_K: np.ndarray, *, per_class: int
) -> list[Example]:
    """Up to per_class images of each kind for each class, class by class; no image twice for one class.

    best: the class is on the image and predicted, with the highest probabilities. worst: by turns the image of the
    class with the lowest probability that was missed, and the one without it with the highest that was predicted.
    surprising: of the class, and with the largest `surprise` over all classes: what the whole label set of an image
    says is furthest from what the model says, also where this class was found.
    """
    truth = targets_NK.astype(bool)
    predicted = probabilities_NK >= thresholds_K
    surprise_N = surprise(targets_NK, probabilities_NK, thresholds_K).sum(axis=1)
    found = []
    for k in range(truth.shape[1]):
        p_N, has_N, said_N = probabilities_NK[:, k], truth[:, k], predicted[:, k]
        by_turns = zip_longest(_ranked(p_N, has_N & ~said_N), _ranked(-p_N, said_N & ~has_N))
        kinds: tuple[tuple[Kind, Iterator[int]], ...] = (
            ("best", _ranked(-p_N, has_N & said_N)),
            ("worst", (position for position in chain.from_iterable(by_turns) if position is not None)),
            ("surprising", _ranked(-surprise_N, has_N)),
        )
        used: set[int] = set()
        for kind, positions in kinds:
            chosen = [position for position in positions if position not in used][:per_class]
            used.update(chosen)
            found += [Example(position, kind, k) for position in chosen]
    return found


def surprise(targets_NK: np.ndarray, probabilities_NK: np.ndarray, thresholds_K: np.ndarray) -> np.ndarray:
    """(N, K) float64: cross-entropy after the logits are moved so that 0 is at the threshold.

    log 2 at the threshold, near 0 for a sure and right decision, large for a sure and wrong one. Without the move a
    class with a threshold of 0.05 would make every image of it a surprise.
    """
    logits_NK = _logit(probabilities_NK) - _logit(thresholds_K)
    return np.asarray(np.logaddexp(0, np.where(targets_NK > 0, -logits_NK, logits_NK)))


def _logit(probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(np.log(p / (1 - p)))


def _ranked(values_N: np.ndarray, among_N: np.ndarray) -> Iterator[int]:
    """Positions of the chosen images by rising value; of equal ones the lower position first."""
    positions = np.flatnonzero(among_N)
    return (int(position) for position in positions[np.argsort(values_N[positions], kind="stable")])
