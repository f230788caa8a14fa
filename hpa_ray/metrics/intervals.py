"""Probabilities and truth -> 95 % bootstrap intervals of all scores. Before: scores. After: evaluate, train.

Percentile bootstrap over images (Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13): images
are drawn with repeats, as many as there are, and the interval is the middle 95 % of the resampled scores, moved by the
bootstrap's estimate of bias (chapter 10): the mean of the resampled scores comes to lie on the score. Unmoved, repeated
images lift average precision and calibration error, and classes with a few images, which some resamples lose, lower
macro F1, until intervals lie beside what they are of. A resample is a row of weights, how often each image came, so
that all that is counted is a matrix product and all that depends on order needs one sort.

What the intervals do not say: the spread between seeds of a training; what other thresholds would give (the decisions
are kept as they are); and little of classes with a handful of images: no resample knows an image like those that are
not there.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hpa_ray.metrics.arrays import as_binary, as_pair, check_same_shape, mean_where, ratio
from hpa_ray.metrics.calibration import image_gaps
from hpa_ray.metrics.ranking import Ranking, image_rankings, rank
from hpa_ray.metrics.scores import count_scores, fill_empty, image_scores

# R resamples, N images, K classes, P positives of a class, M means over images, B bins

LEVEL = (0.025, 0.975)
BLOCK_CELLS = 2**20
"""Weights that are held at once; a block takes about 20 bytes of memory for each."""
MAX_BLOCK = 100

Interval = tuple[float, float]


class Bootstrap(NamedTuple):
    scores: dict[str, Interval]
    """By name of the score; a score that no resample has is left out."""
    classes: dict[str, np.ndarray]
    """f1, precision, recall, average_precision: (K, 2) float64, NaN for a class where no resample has it."""


def intervals(
    probabilities: np.ndarray,
    targets: np.ndarray,
    predicted_tuned_NK: np.ndarray,
    rare_K: np.ndarray,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """`bootstrap`'s intervals of the scores."""
    return bootstrap(probabilities, targets, predicted_tuned_NK, rare_K, resamples=resamples, seed=seed).scores


def bootstrap(
    probabilities: np.ndarray,
    targets: np.ndarray,
    predicted_tuned_NK: np.ndarray,
    rare_K: np.ndarray,
    *,
    table_NK: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Low and high end of every score of checkpoint/results.all_scores, and of the table of classes.

    (N, K) probabilities in [0, 1], (N, K) targets and tuned decisions of 0 and 1, (K,) bool rare classes. table_NK: the
    decisions of the table of classes; None: the tuned ones. Resamples in which a score is undefined, such as the
    average precision of a class that none of their images has, are left out of its interval. Raises ValueError as
    `score` does, and for fewer than 2 resamples.
    """
    if resamples < 2:
        raise ValueError(f"{resamples=} have no spread: use 2 or more, 1000 for an interval to report")
    part = _Part(probabilities, targets, predicted_tuned_NK, rare_K, table_NK)
    blocks = [
        part.scores(weight_RN)
        for weight_RN in resampled_weights(part.num_images, resamples, np.random.default_rng(seed))
    ]
    once, table_once = part.scores(np.ones((1, part.num_images), np.float32))
    found = {name: _interval(np.concatenate([scores[name] for scores, _ in blocks]), once[name][0]) for name in once}
    classes = {
        name: _interval(np.concatenate([table[name] for _, table in blocks]), table_once[name][0])
        for name in table_once
    }
    return Bootstrap(
        {name: (float(ends[0]), float(ends[1])) for name, ends in found.items() if not np.isnan(ends).any()},
        {name: ends.T for name, ends in classes.items()},
    )


def count_intervals(
    predictions: np.ndarray, targets: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """`bootstrap` of the scores that need counts only (`count_scores`): a tenth of its time."""
    predicted_NK, target_NK = as_binary("predictions", predictions), as_binary("targets", targets)
    check_same_shape("predictions", predicted_NK.shape, target_NK.shape)
    counted = np.concatenate([predicted_NK & target_NK, predicted_NK, target_NK], axis=1).astype(np.float32)
    blocks = []
    for weight_RN in resampled_weights(len(target_NK), resamples, np.random.default_rng(seed)):
        hits, predicted, support = np.split((weight_RN @ counted).astype(np.float64), 3, axis=1)
        blocks.append(count_scores(hits, predicted, support))
    once = count_scores(*(x[None].astype(np.float64) for x in np.split(counted.sum(axis=0), 3)))
    ends = {name: _interval(np.concatenate([block[name] for block in blocks]), once[name][0]) for name in once}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items() if not np.isnan(low)}


def resampled_weights(num_images: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """(R, N) float32 in blocks: how often each of N images comes when N are drawn with repeats, R times."""
    size = max(1, min(MAX_BLOCK, BLOCK_CELLS // num_images))
    for start in range(0, resamples, size):
        weight_RN = np.empty((min(size, resamples - start), num_images), np.float32)
        for weight_N in weight_RN:
            weight_N[:] = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
        yield weight_RN


def weighted_scores(
    probabilities: np.ndarray,
    targets: np.ndarray,
    predicted_tuned_NK: np.ndarray,
    rare_K: np.ndarray,
    weight_RN: np.ndarray,
) -> dict[str, np.ndarray]:
    """Every score of the images repeated as often as their weights say, as (R,) float64, NaN where undefined."""
    return _Part(probabilities, targets, predicted_tuned_NK, rare_K, None).scores(weight_RN)[0]


class _Part:
    """What all resamples of some images share."""

    def __init__(
        self,
        probabilities: np.ndarray,
        targets: np.ndarray,
        predicted_tuned_NK: np.ndarray,
        rare_K: np.ndarray,
        table_NK: np.ndarray | None,
    ) -> None:
        probability_NK, target_NK = as_pair(probabilities, targets)
        tuned_NK = as_binary("predictions", predicted_tuned_NK)
        check_same_shape("predictions", tuned_NK.shape, target_NK.shape)
        self.num_images, self.num_classes = target_NK.shape
        self.rare_K = np.asarray(rare_K, bool)
        check_same_shape("rare classes", self.rare_K.shape, (self.num_classes,))
        self.ranking = rank(probability_NK, target_NK)
        half_NK, filled_NK = probability_NK >= 0.5, fill_empty(probability_NK, tuned_NK)
        table_NK = tuned_NK if table_NK is None else as_binary("predictions", table_NK)
        sets = (half_NK, tuned_NK, filled_NK, table_NK)
        counted = [target_NK, *sets, *(predicted_NK & target_NK for predicted_NK in sets)]
        self.counted = np.concatenate(counted, axis=1).astype(np.float32)
        means = image_scores(half_NK, target_NK)
        means |= {f"{name}_tuned": value_N for name, value_N in image_scores(tuned_NK, target_NK).items()}
        means |= image_rankings(probability_NK, target_NK)
        means["brier"] = np.square(probability_NK - target_NK).mean(axis=1)
        self.names = list(means)
        self.value_NM = np.stack(list(means.values()), axis=1)
        self.gap_NB = image_gaps(probability_NK, target_NK)

    def scores(self, weight_RN: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(R,) scores by name, and (R, K) columns of the table of classes."""
        # sums of whole numbers below 2^24 are exact in float32
        sums = (weight_RN @ self.counted).astype(np.float64).reshape(len(weight_RN), 9, self.num_classes)
        support_RK, hits, predicted = sums[:, 0], sums[:, 5:], sums[:, 1:5]
        half, tuned, filled, table = ((hits[:, n], predicted[:, n]) for n in range(4))
        found = count_scores(*half, support_RK)
        found |= {f"{name}_tuned": value_R for name, value_R in count_scores(*tuned, support_RK).items()}
        weight = weight_RN.astype(np.float64)
        num_R = weight.sum(axis=1)
        mean_RM = weight @ self.value_NM / num_R[:, None]
        found |= dict(zip(self.names, mean_RM.T, strict=True))
        found["ece"] = np.abs(weight @ self.gap_NB).sum(axis=1) / (num_R * self.num_classes)

        precision_RK, area_RK = self._ranked(weight_RN)
        found["map"] = mean_where(precision_RK, ~np.isnan(precision_RK))
        found["auroc"] = mean_where(area_RK, ~np.isnan(area_RK))
        there_RK = self.rare_K & (support_RK > 0)
        f1 = [ratio(2 * h_RK, p_RK + support_RK, empty=0.0) for h_RK, p_RK in (half, tuned, filled, table)]
        found["macro_f1_rare"], found["macro_f1_rare_tuned"] = (mean_where(f1_RK, there_RK) for f1_RK in f1[:2])
        found["map_rare"] = mean_where(precision_RK, there_RK)
        found["macro_f1_filled"] = f1[2].mean(axis=1)
        columns = {
            "f1": f1[3],
            "precision": ratio(*table, empty=np.nan),
            "recall": ratio(table[0], support_RK, empty=np.nan),
            "average_precision": precision_RK,
        }
        return found, columns

    def _ranked(self, weight_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision and AUROC, (R, K) each, of weighted images."""
        shape = (len(weight_RN), self.num_classes)
        precision_RK, area_RK = np.full(shape, np.nan), np.full(shape, np.nan)
        sorted_RN, above_RN = np.empty_like(weight_RN), np.zeros((shape[0], self.num_images + 1), np.float32)
        for k in np.flatnonzero(self.ranking.hit_KN.any(axis=1)):
            place_P, first_P, last_P = _positives(self.ranking, int(k))
            np.take(weight_RN, self.ranking.order_KN[k], axis=1, out=sorted_RN, mode="clip")
            np.cumsum(sorted_RN, axis=1, out=above_RN[:, 1:])
            weight_RP = sorted_RN[:, place_P].astype(np.float64)
            hits_RP = np.pad(weight_RP.cumsum(axis=1), ((0, 0), (1, 0)))
            hits_until = hits_RP[:, np.searchsorted(place_P, last_P, side="right")]
            hits_before = hits_RP[:, np.searchsorted(place_P, first_P)]
            until, before = above_RN[:, last_P + 1].astype(np.float64), above_RN[:, first_P].astype(np.float64)
            positives_R = hits_RP[:, -1]
            right_R = (weight_RP * ratio(hits_until, until, empty=0.0)).sum(axis=1)
            precision_RK[:, k] = ratio(right_R, positives_R, empty=np.nan)
            wrong_R = (weight_RP * ((until - hits_until) + (before - hits_before))).sum(axis=1) / 2
            negatives_R = above_RN[:, -1].astype(np.float64) - positives_R
            area_RK[:, k] = 1.0 - ratio(wrong_R, positives_R * negatives_R, empty=np.nan)
        return precision_RK, area_RK


def _positives(ranking: Ranking, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every positive of a class: its position, and the first and last position of its tie group."""
    place_P = np.flatnonzero(ranking.hit_KN[k])
    return place_P, ranking.first_KN[k, place_P], ranking.last_KN[k, place_P]


def _interval(value_R: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Resampled scores, (R, ...), and the score itself -> the ends, (2, ...); NaN where nothing is defined.

    Of scores that can not be above 1, no end is.
    """
    flat, scores = value_R.reshape(len(value_R), -1), np.reshape(score, -1)
    ends = np.full((2, flat.shape[1]), np.nan)
    for column, of_column in enumerate(flat.T):
        defined = of_column[~np.isnan(of_column)]
        if len(defined) and not np.isnan(scores[column]):
            most = 1.0 if max(defined.max(), scores[column]) <= 1 else np.inf
            ends[:, column] = np.clip(np.quantile(defined, LEVEL) - defined.mean() + scores[column], 0.0, most)
    return ends.reshape(2, *value_R.shape[1:])
