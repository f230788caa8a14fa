"""Two models on the same images -> differences, by a paired bootstrap. Before: files. After: compare_page.

Plain arrays in, plain values out.
"""

from typing import NamedTuple

import numpy as np

from hpa_ray.errors import InputError
from hpa_ray.metrics import cross_fit
from hpa_ray.report.contents import PARTS, RunFiles

# R resamples, N images, K classes

RESAMPLES = 1000
BLOCK = 100
"""Resamples whose weights are held at once."""
SCORES = ("macro F1", "micro F1", "exact match")
LEVEL = (0.025, 0.975)


class Gain(NamedTuple):
    """Of the second model over the first, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        return self.low <= 0 <= self.high


class Compared(NamedTuple):
    scores: dict[str, Gain]
    f1_K: list[Gain]


class Decided(NamedTuple):
    """Decisions of several runs on the images that they share, in one order."""

    part: str
    target_NK: np.ndarray  # bool
    by_run: list[np.ndarray]  # (N, K) bool each


def shared_decisions(runs: list[RunFiles]) -> Decided | None:
    """Of the first part that all runs have with its truth; None without one, or without an image in common.

    On the validation part the stored thresholds were tuned on the very images, so each half is decided with thresholds
    tuned on the other. Raises InputError if the runs do not agree on the truth of an image.
    """
    for name in PARTS:
        parts = [run.parts[name] for run in runs if name in run.parts and run.parts[name].target_NK is not None]
        if len(parts) < len(runs):
            continue
        ids = sorted(set.intersection(*(set(part.ids) for part in parts)))
        if not ids:
            return None
        targets, decisions = [], []
        for part in parts:
            assert part.target_NK is not None
            row_of = {image_id: row for row, image_id in enumerate(part.ids)}
            rows = [row_of[image_id] for image_id in ids]
            targets.append(part.target_NK[rows])
            tuned_here = name != "test"
            decided = cross_fit(part.probability_NK, part.target_NK, part.ids) if tuned_here else part.predicted_NK
            decisions.append(decided[rows])
        for run, target_NK in zip(runs[1:], targets[1:], strict=True):
            if (wrong := (target_NK != targets[0]).any(axis=1)).any():
                image_id = ids[int(wrong.argmax())]
                raise InputError(
                    f"{run.uri}: image {image_id} has other labels there than in {runs[0].uri} - compare runs on the "
                    "same labels"
                )
        return Decided(name, targets[0], decisions)
    return None


def compare(
    first_NK: np.ndarray, second_NK: np.ndarray, target_NK: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Compared:
    """Percentile bootstrap (Efron and Tibshirani 1993) over images, each resample the same for both models.

    (N, K) bool decisions and truth. It says how much the choice of these images matters, not the luck of a training:
    for that, train each of them with several seeds. Raises ValueError without images, or for shapes that differ.
    """
    if not len(target_NK) or not first_NK.shape == second_NK.shape == target_NK.shape:
        raise ValueError(f"decisions {first_NK.shape} and {second_NK.shape} for truth {target_NK.shape}")
    num_images = len(target_NK)
    rng = np.random.default_rng(seed)
    found: list[dict[str, np.ndarray]] = []
    whole = _difference(np.ones((1, num_images)), first_NK, second_NK, target_NK)
    for start in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - start)
        weight_RN = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=count).astype(np.float64)
        found.append(_difference(weight_RN, first_NK, second_NK, target_NK))
    drawn = {name: np.concatenate([block[name] for block in found]) for name in found[0]}
    ends = {name: np.quantile(values, LEVEL, axis=0) for name, values in drawn.items()}
    scores = {name: Gain(float(whole[name][0]), *map(float, ends[name])) for name in SCORES}
    classes = [Gain(float(whole["f1"][0, k]), *map(float, ends["f1"][:, k])) for k in range(target_NK.shape[1])]
    return Compared(scores, classes)


def _difference(
    weight_RN: np.ndarray, first_NK: np.ndarray, second_NK: np.ndarray, target_NK: np.ndarray
) -> dict[str, np.ndarray]:
    before, after = (_scores(weight_RN, decided_NK, target_NK) for decided_NK in (first_NK, second_NK))
    return {name: after[name] - before[name] for name in after}


def _scores(weight_RN: np.ndarray, decided_NK: np.ndarray, target_NK: np.ndarray) -> dict[str, np.ndarray]:
    """Of every resample: (R,) each, and (R, K) as `f1`; 0/0 = 0."""
    hits_RK = weight_RN @ (decided_NK & target_NK)
    both_RK = weight_RN @ decided_NK + weight_RN @ target_NK
    f1_RK = _ratio(2 * hits_RK, both_RK)
    exact_N = (decided_NK == target_NK).all(axis=1)
    return {
        "macro F1": f1_RK.mean(axis=1),
        "micro F1": _ratio(2 * hits_RK.sum(axis=1), both_RK.sum(axis=1)),
        "exact match": weight_RN @ exact_N / weight_RN.sum(axis=1),
        "f1": f1_RK,
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    result = np.zeros(numerator.shape)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
