"""Predictions of the finals -> differences to the baseline, with intervals. Before: study, effects. After: answer.

Plain arrays in, plain values out.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hpa_ray.metrics.intervals import resampled_weights
from hpa_ray.metrics.ranking import average_precision, rank
from hpa_ray.tune.effects import LEVEL, TOLERANCE
from hpa_ray.tune.study import Trial

# R resamples, N images, K classes, S seeds, D deviations

SCORES = ("macro_f1_rare_tuned", "macro_f1_tuned", "map_rare", "map", "micro_f1_tuned")

Predictions = Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]]
"""(number of the searched trial, seed) -> (N, K) bool decisions and (N, K) probabilities of the test images."""


class Difference(NamedTuple):
    """To the baseline, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        return self.low <= TOLERANCE and self.high >= -TOLERANCE

    def __str__(self) -> str:
        return f"{self.value:+.3f} (95 % interval {self.low:+.3f} to {self.high:+.3f})"


class ClassDifference(NamedTuple):
    """One class of the test part, mean over seeds; None where it has no image there, or there is no baseline."""

    num_images: int
    f1: float | None
    f1_difference: Difference | None
    average_precision: float | None
    average_precision_std: float | None
    average_precision_difference: float | None


class Final(NamedTuple):
    number: int
    """Of the searched trial that is repeated; 0 is the baseline."""
    overrides: dict[str, Any]
    num_seeds: int
    means: dict[str, float | None]
    """Scores of the test part, by name; mean and std over seeds."""
    stds: dict[str, float | None]
    rare: Difference | None
    """Of macro F1 over the rare classes; None for the baseline, without one, and without images of a rare class."""
    overall: Difference | None
    """Of macro F1 over all classes."""
    classes: tuple[ClassDifference, ...] = ()


def compare_finals(
    trials: Sequence[Trial],
    predictions: Predictions,
    targets_NK: np.ndarray,
    rare_K: np.ndarray,
    *,
    scores: Sequence[str] = SCORES,
    seed: int = 0,
    resamples: int = 1000,
) -> list[Final]:
    """Finals, the baseline (0) first, each compared with it on the same test images.

    Two-level bootstrap. Each resample draws test images with repeats, the same ones for all finals, and for each final
    as many deviations of a seed from its final's mean as it has seeds. Deviations are drawn from those of all finals
    together, scaled by sqrt(S / (S - 1)): three seeds alone say too little about the spread between seeds, and their
    own mean hides a third of it. They are of the whole test part: taken within each resample they count the noise of
    single images once more. Simulated with three seeds, 2 to 7 of 100 differences that are none are called one; with
    one seed each, where the spread between seeds is missing in the intervals, 40 to 50.

    Resamples are drawn in blocks, which take about 1 kB of memory per test image; all 1000 at once took 4 kB.
    """
    target_NK = np.asarray(targets_NK).astype(bool)
    runs: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.final_of is not None and trial.status == "done" and (trial.final_of, trial.seed) in predictions:
            runs.setdefault(trial.final_of, []).append(trial)
    for number, some in runs.items():
        for trial in some:
            shapes = [array.shape for array in predictions[number, trial.seed]]
            if shapes != [target_NK.shape] * 2:
                raise ValueError(f"final of {number}, seed {trial.seed}: shapes {shapes}, expected {target_NK.shape}")
    rng = np.random.default_rng(seed)
    blocks: dict[int, list[np.ndarray]] = {number: [] for number in sorted(runs)}
    there = []
    for weight_RN in _weights(len(target_NK), resamples, rng):
        there.append(weight_RN @ target_NK.astype(np.float32) > 0)
        for number, block in blocks.items():
            decisions = [predictions[number, trial.seed][0] for trial in runs[number]]
            block.append(np.stack([_f1(weight_RN, decision_NK, target_NK) for decision_NK in decisions]))
    there_RK = np.concatenate(there)
    f1s = {number: np.concatenate(block, axis=1) for number, block in blocks.items()}
    precisions = {
        number: np.stack([average_precision(rank(predictions[number, t.seed][1], target_NK)) for t in some])
        for number, some in runs.items()
    }
    resampled = _with_seeds(f1s, rng)
    found = []
    for number, f1_SRK in f1s.items():
        against = None if number == 0 or 0 not in f1s else resampled[number] - resampled[0]
        overall = None if against is None else _difference(against.mean(axis=1))
        rare = None if against is None else _difference(_mean_where(against, there_RK & rare_K))
        base_SK = None if against is None else precisions[0]
        classes = tuple(
            _class_difference(k, target_NK, f1_SRK[:, 0], against, precisions[number], base_SK)
            for k in range(target_NK.shape[1])
        )
        tests = [trial.test or {} for trial in runs[number]]
        means, stds = {}, {}
        for name in scores:
            values = [float(test[name]) for test in tests if test.get(name) is not None]
            means[name] = float(np.mean(values)) if values else None
            stds[name] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found.append(Final(number, runs[number][0].overrides, len(tests), means, stds, rare, overall, classes))
    return found


def _weights(num_images: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """(R, N) float32 in blocks: how often each image comes; the first block is one row, the test part itself."""
    yield np.ones((1, num_images), np.float32)
    yield from resampled_weights(num_images, resamples, rng)


def _f1(weight_RN: np.ndarray, decision_NK: np.ndarray, target_NK: np.ndarray) -> np.ndarray:
    """(R, K) F1 of images that come so often; 0/0 = 0. Sums of whole numbers below 2^24 are exact in float32."""
    decision_NK = np.asarray(decision_NK).astype(bool)
    hits_RK = weight_RN @ (decision_NK & target_NK).astype(np.float32)
    both_RK = weight_RN @ (decision_NK.astype(np.float32) + target_NK)
    f1_RK: np.ndarray = np.divide(
        2.0 * hits_RK.astype(np.float64), both_RK, out=np.zeros(hits_RK.shape), where=both_RK > 0
    )
    return f1_RK


def _with_seeds(f1s: Mapping[int, np.ndarray], rng: np.random.Generator) -> dict[int, np.ndarray]:
    """(1 + R, K) mean over seeds of each final, with seeds drawn anew in all rows but the first."""
    means = {number: f1_SRK.mean(axis=0) for number, f1_SRK in f1s.items()}
    deviations = [
        (f1_SRK[:, 0] - means[number][0]) * math.sqrt(len(f1_SRK) / (len(f1_SRK) - 1))
        for number, f1_SRK in f1s.items()
        if len(f1_SRK) > 1
    ]
    if deviations:
        deviation_DK = np.concatenate(deviations)
        for number, f1_SRK in f1s.items():
            drawn_RS = rng.integers(0, len(deviation_DK), (f1_SRK.shape[1] - 1, len(f1_SRK)))
            means[number][1:] += deviation_DK[drawn_RS].mean(axis=1)
    return means


def _mean_where(value_RK: np.ndarray, where_RK: np.ndarray) -> np.ndarray:
    """(R,) mean over the classes that a resample holds; NaN without any."""
    count_R = where_RK.sum(axis=1)
    total_R = (value_RK * where_RK).sum(axis=1)
    mean_R: np.ndarray = np.divide(total_R, count_R, out=np.full(len(count_R), np.nan), where=count_R > 0)
    return mean_R


def _difference(value_R: np.ndarray) -> Difference | None:
    """Of the first, with the interval of the others."""
    if not np.isfinite(value_R[0]):
        return None
    finite_R = value_R[1:][np.isfinite(value_R[1:])]
    low, high = np.quantile(finite_R, LEVEL).tolist() if len(finite_R) else (-math.inf, math.inf)
    return Difference(float(value_R[0]), low, high)


def _class_difference(
    k: int,
    target_NK: np.ndarray,
    f1_SK: np.ndarray,
    against_RK: np.ndarray | None,
    precision_SK: np.ndarray,
    base_SK: np.ndarray | None,
) -> ClassDifference:
    if not (num_images := int(target_NK[:, k].sum())):
        return ClassDifference(0, None, None, None, None, None)
    precision = float(precision_SK[:, k].mean())
    return ClassDifference(
        num_images,
        float(f1_SK[:, k].mean()),
        None if against_RK is None else _difference(against_RK[:, k]),
        precision,
        float(precision_SK[:, k].std(ddof=1)) if len(precision_SK) > 1 else None,
        None if base_SK is None else precision - float(base_SK[:, k].mean()),
    )
