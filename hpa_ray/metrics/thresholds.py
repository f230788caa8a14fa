"""Probabilities and truth -> a threshold per class by a rule, and scores that do not flatter it. After: evaluate.

A threshold tuned on the images it is judged on looks better than it is, most for classes with a handful of images.
`cross_fit` therefore judges every image with thresholds tuned on other images; those of all images are for the model
that is shipped. Names end in their axes: N image, K class.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from hpa_ray.metrics.arrays import as_pair, as_thresholds, check_same_shape
from hpa_ray.metrics.ranking import Ranking, rank
from hpa_ray.metrics.scores import Scores, apply_thresholds, score_predictions

Rule = Literal["fixed", "global", "per_class", "share"]
RULES: tuple[Rule, ...] = get_args(Rule)
Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(N, K) probabilities and targets -> (K,) thresholds."""
NEAR_ONE = 1e-9
"""Logits are taken of probabilities this far from 0 and 1 at least."""
SAME_SCORE = 1e-12
"""Sums of F1 that differ by less are equal but for rounding."""


def fit_thresholds(
    rule: Rule,
    probabilities: np.ndarray,
    targets: np.ndarray,
    *,
    value: float = 0.5,
    shrinkage: float = 0.0,
    shares_K: np.ndarray | None = None,
) -> np.ndarray:
    """(K,) float64 thresholds in [0, 1] by a rule, from (N, K) probabilities and targets of 0 and 1.

    - fixed: `value` for all classes.
    - global: one threshold for all classes, with the greatest macro F1 on these images (0/0 = 0).
    - per_class: each with the greatest F1 of its class (`tune_thresholds`). With n positives and a shrinkage of s > 0
      its logit is (n * own + s * global) / (n + s): a class without positives gets the global threshold, one with s of
      them lies midway.
    - share: as many images of each class as its share: round(share * N), at least one where the share is not 0, and
      with equal probabilities the nearest number that can be had (the smaller of two). shares_K: (K,) known shares,
      such as those of the training part; None: of these images.

    Raises ValueError as `score` does, for an unknown rule, and for shares or a shrinkage that cannot be.
    """
    if rule == "fixed":
        probability_NK, _ = as_pair(probabilities, targets)
        return as_thresholds(np.full(probability_NK.shape[1], value), probability_NK.shape[1])
    if rule == "global":
        return _global_threshold(rank(probabilities, targets))
    if rule == "per_class":
        return _shrunk(rank(probabilities, targets), shrinkage)
    if rule == "share":
        return _by_share(rank(probabilities, targets), shares_K)
    raise ValueError(f"no threshold rule {rule!r}: use {', '.join(RULES)}")


def tune_thresholds(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(K,) float64 thresholds in [0, 1], each with the greatest F1 its class can reach on these (N, K) images.

    Every cut between two distinct probabilities is tried, and the threshold lies midway between them (0 is the lower
    neighbour of the lowest); of equally good cuts the highest wins. A class without positives gets the middle between
    its highest probability and 1: it is not predicted here, save at a probability of exactly 1.
    Raises ValueError as `score` does.
    """
    return _shrunk(rank(probabilities, targets), 0.0)


def cross_fit(
    probabilities: np.ndarray,
    targets: np.ndarray,
    row_keys: Sequence[str],
    *,
    folds: int = 2,
    fit: Fit = tune_thresholds,
) -> np.ndarray:
    """(N, K) bool predictions, each image judged with thresholds that `fit` found on the images of the other folds.

    An image's fold is a hash of its id: the same in every run, whatever the order of the rows. Where the other folds
    hold no image at all (a handful of rows), the threshold is 0.5. Raises ValueError as `score` does, and for a wrong
    number of row keys or fewer than two folds.
    """
    probability_NK, target_NK = as_pair(probabilities, targets)
    if len(row_keys) != len(target_NK):
        raise ValueError(f"{len(row_keys)} row keys for {len(target_NK)} images: pass the id of each row once")
    if folds < 2:
        raise ValueError(f"{folds=} leaves nothing to tune on: use 2 or more")
    fold_N = np.array([_stable_hash(key) % folds for key in row_keys])
    predicted_NK = apply_thresholds(probability_NK)
    for fold in np.unique(fold_N):
        here = fold_N == fold
        if not here.all():
            thresholds = fit(probability_NK[~here], target_NK[~here])
            predicted_NK[here] = apply_thresholds(probability_NK[here], thresholds)
    return predicted_NK


def score_tuned(
    probabilities: np.ndarray,
    targets: np.ndarray,
    row_keys: Sequence[str],
    *,
    folds: int = 2,
    fit: Fit = tune_thresholds,
) -> Scores:
    """`score_predictions` of `cross_fit`: what tuned thresholds are worth on images they were not tuned on."""
    return score_predictions(cross_fit(probabilities, targets, row_keys, folds=folds, fit=fit), targets)


def _shrunk(ranking: Ranking, shrinkage: float) -> np.ndarray:
    if not (np.isfinite(shrinkage) and shrinkage >= 0):
        raise ValueError(f"{shrinkage=}: give a number of positives, 0 for no shrinkage")
    f1_KN = _f1_of_cuts(ranking)
    hits_K = ranking.hit_KN.sum(axis=1)
    num_cut_K = np.where(hits_K > 0, f1_KN.argmax(axis=1) + 1, 0)
    own_K = _threshold_of(ranking, num_cut_K)
    if not shrinkage:
        return own_K
    own_logit_K, global_logit_K = (_logit(threshold_K) for threshold_K in (own_K, _global_threshold(ranking)))
    mixed_K = (hits_K * own_logit_K + shrinkage * global_logit_K) / (hits_K + shrinkage)
    threshold_K: np.ndarray = np.exp(-np.logaddexp(0, -mixed_K))
    return threshold_K


def _global_threshold(ranking: Ranking) -> np.ndarray:
    """Every cut between two distinct probabilities of any class is tried; of equally good ones the highest wins."""
    num_classes = len(ranking.score_KN)
    f1_KN = _f1_of_cuts(ranking)
    # what each image adds to the sum of F1 over classes, where a class's tie group counts at its end
    at_end_KN = np.take_along_axis(f1_KN, ranking.last_KN, axis=1)
    before_KN = np.pad(at_end_KN[:, :-1], ((0, 0), (1, 0)))
    added = np.where(ranking.first_KN == np.arange(f1_KN.shape[1]), at_end_KN - before_KN, 0.0).ravel()
    order = np.argsort(-ranking.score_KN.ravel(), kind="stable")
    score = ranking.score_KN.ravel()[order]
    ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    total = added[order].cumsum()[ends]
    if not ranking.hit_KN.any():
        lower, upper = score[0], 1.0
    else:
        best = int((total >= total.max() - SAME_SCORE).argmax())
        upper, lower = score[ends[best]], score[ends[best] + 1] if best + 1 < len(ends) else 0.0
    return np.full(num_classes, _between(np.array([lower]), np.array([upper]))[0])


def _by_share(ranking: Ranking, shares_K: np.ndarray | None) -> np.ndarray:
    num_classes, num_images = ranking.hit_KN.shape
    share_K = ranking.hit_KN.mean(axis=1) if shares_K is None else np.asarray(shares_K, np.float64)
    check_same_shape("shares", share_K.shape, (num_classes,))
    if not ((share_K >= 0) & (share_K <= 1)).all():
        raise ValueError("a share is not within [0, 1]: give the part of the images that has each class")
    wanted_K = np.where(share_K > 0, np.maximum(1, np.rint(share_K * num_images)), 0).astype(np.int64)
    # the tie group that holds the last image wanted: all of it, or what lies before it
    at_K = np.maximum(wanted_K - 1, 0)[:, None]
    fewer_K = np.take_along_axis(ranking.first_KN, at_K, axis=1)[:, 0]
    more_K = np.take_along_axis(ranking.last_KN, at_K, axis=1)[:, 0] + 1
    closer_K = np.where(more_K - wanted_K < wanted_K - fewer_K, more_K, fewer_K)
    return _threshold_of(ranking, np.where(wanted_K > 0, closer_K, 0))


def _f1_of_cuts(ranking: Ranking) -> np.ndarray:
    """(K, N) F1 with all images predicted down to this position; -1 within a tie group, which no threshold divides."""
    hits_KN = ranking.hit_KN.cumsum(axis=1)
    position_N = np.arange(hits_KN.shape[1])
    f1_KN: np.ndarray = 2 * hits_KN / (position_N + 1 + hits_KN[:, -1:])
    f1_KN[ranking.last_KN != position_N] = -1.0
    return f1_KN


def _threshold_of(ranking: Ranking, num_cut_K: np.ndarray) -> np.ndarray:
    """(K,) thresholds that predict the so many most probable images; none: midway to 1, all: midway to 0."""
    edge_KN = np.pad(ranking.score_KN, ((0, 0), (1, 1)))
    edge_KN[:, 0] = 1.0
    upper_K, lower_K = (np.take_along_axis(edge_KN, at_K[:, None], axis=1)[:, 0] for at_K in (num_cut_K, num_cut_K + 1))
    return _between(lower_K, upper_K)


def _between(lower_K: np.ndarray, upper_K: np.ndarray) -> np.ndarray:
    middle_K = lower_K + (upper_K - lower_K) / 2
    return np.where(middle_K > lower_K, middle_K, upper_K)  # neighbouring floats have no middle


def _logit(probability_K: np.ndarray) -> np.ndarray:
    clipped_K = np.clip(probability_K, NEAR_ONE, 1 - NEAR_ONE)
    logit_K: np.ndarray = np.log(clipped_K) - np.log1p(-clipped_K)
    return logit_K


def _stable_hash(key: str) -> int:
    # hash() of a str differs between processes
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
