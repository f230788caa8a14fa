"""Probabilities and truth -> one flat dict of scores, one table per class. Before: evaluate. After: thresholds, report.

Names end in their axes: N image, K class. A class is predicted where probability >= threshold.

Conventions, for 0/0:
- F1 of a class that is neither there nor predicted is 0, as in the 2018 competition; `macro_f1` is over all K classes,
  `macro_f1_present` over the classes with at least one image.
- An image without labels for which nothing is predicted is right: proportional accuracy and sample F1 count it as 1.
- Average precision needs a positive, AUROC a positive and a negative: a class that lacks them is left out of `map` and
  `auroc`, and the number of classes that remain stands beside the mean. A mean over no class is None.
"""

from typing import NamedTuple

import numpy as np

Scores = dict[str, float | int | None]


class Ranking(NamedTuple):
    """Each class's images by falling probability; images with the same probability form one tie group."""

    score_KN: np.ndarray
    """float64"""
    hit_KN: np.ndarray
    """bool, whether the image at this position has the class"""
    first_KN: np.ndarray
    """int, first position of the tie group this position belongs to"""
    last_KN: np.ndarray
    """int, its last position"""


def as_binary(name: str, values: np.ndarray) -> np.ndarray:
    """(N, K) of 0 and 1, any dtype -> (N, K) bool. Raises ValueError for other shapes or values, or no images."""
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            f"{name} have shape {array.shape}, not (images, classes) with one image or more: pass a row each"
        )
    if array.dtype != np.bool_ and not ((array == 0) | (array == 1)).all():
        wrong = array[(array != 0) & (array != 1)][0]
        raise ValueError(f"{name} hold {wrong!s}, not only 0 and 1: pass multi-hot rows")
    return array.astype(np.bool_)


def as_probabilities(values: np.ndarray) -> np.ndarray:
    """(N, K) -> (N, K) float64. Raises ValueError unless every value is a finite number in [0, 1]."""
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            f"probabilities have shape {array.shape}, not (images, classes) with one image or more: pass a row each"
        )
    array = array.astype(np.float64)
    inside = (array >= 0) & (array <= 1)  # NaN is not inside
    if not inside.all():
        row, k = np.argwhere(~inside)[0]
        raise ValueError(
            f"probability {array[row, k]} at row {row}, class {k} is not within [0, 1]: pass sigmoid outputs, not"
            " logits; NaN means that training diverged"
        )
    return array


def check_same_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raises ValueError when `shape` is not the expected one."""
    if shape != expected:
        raise ValueError(
            f"{name} have shape {shape}, expected {expected}: score the same images and classes, one threshold each"
        )


def apply_thresholds(probabilities: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
    """(N, K) probabilities, (K,) thresholds (0.5 where None) -> (N, K) bool. Raises ValueError as `score` does."""
    probability_NK = as_probabilities(probabilities)
    return probability_NK >= _as_thresholds(thresholds, probability_NK.shape[1])


def score(probabilities: np.ndarray, targets: np.ndarray, thresholds: np.ndarray | None = None) -> Scores:
    """All scores of (N, K) probabilities in [0, 1] against (N, K) targets of 0 and 1.

    thresholds: (K,), 0.5 where None.
    Returns the keys of `score_predictions`, then `map`, `num_map_classes`, `auroc`, `num_auroc_classes`: Python numbers
    or None. Raises ValueError for non-finite or out-of-range values, shapes that do not match, and for no images.
    """
    ranking = rank(probabilities, targets)
    scores = score_predictions(apply_thresholds(probabilities, thresholds), targets)
    scores["map"], scores["num_map_classes"] = _mean_where_defined(average_precision(ranking))
    scores["auroc"], scores["num_auroc_classes"] = _mean_where_defined(auroc(ranking))
    return scores


def score_predictions(predictions: np.ndarray, targets: np.ndarray) -> Scores:
    """The scores that need decisions only: (N, K) predictions and targets of 0 and 1 -> Python numbers or None.

    Keys: macro_f1, micro_f1, precision_micro, recall_micro, exact_match, proportional_accuracy (mean over images of
    |Y and Z| / |Y or Z|), sample_f1, hamming_loss, macro_f1_present, num_present_classes.
    Raises ValueError for values other than 0 and 1, shapes that do not match, and for no images.
    """
    predicted_NK, target_NK = as_binary("predictions", predictions), as_binary("targets", targets)
    check_same_shape("predictions", predicted_NK.shape, target_NK.shape)
    hit_NK = predicted_NK & target_NK

    hits_K, predicted_K, support_K = (x.sum(axis=0) for x in (hit_NK, predicted_NK, target_NK))
    f1_K = _ratio(2 * hits_K, predicted_K + support_K, empty=0.0)
    present_K = support_K > 0
    hits, predicted, support = hits_K.sum(), predicted_K.sum(), support_K.sum()

    hits_N, predicted_N, support_N = (x.sum(axis=1) for x in (hit_NK, predicted_NK, target_NK))
    return {
        "macro_f1": float(f1_K.mean()),
        "micro_f1": float(_ratio(2 * hits, predicted + support, empty=0.0)),
        "precision_micro": float(_ratio(hits, predicted, empty=0.0)),
        "recall_micro": float(_ratio(hits, support, empty=0.0)),
        "exact_match": float((predicted_NK == target_NK).all(axis=1).mean()),
        "proportional_accuracy": float(_ratio(hits_N, predicted_N + support_N - hits_N, empty=1.0).mean()),
        "sample_f1": float(_ratio(2 * hits_N, predicted_N + support_N, empty=1.0).mean()),
        "hamming_loss": float((predicted_NK != target_NK).mean()),
        "macro_f1_present": float(f1_K[present_K].mean()) if present_K.any() else None,
        "num_present_classes": int(present_K.sum()),
    }


def per_class(
    probabilities: np.ndarray, targets: np.ndarray, thresholds: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A table with a row per class, as (K,) columns.

    int64: support, predicted. float64: precision, recall, f1, average_precision, auroc, threshold.
    NaN where undefined (precision of a class never predicted, recall of one without images); only f1 is then 0, so
    that its mean is `macro_f1`. Shapes and errors as in `score`.
    """
    ranking = rank(probabilities, targets)
    predicted_NK, target_NK = apply_thresholds(probabilities, thresholds), as_binary("targets", targets)
    hits_K, predicted_K, support_K = (x.sum(axis=0) for x in (predicted_NK & target_NK, predicted_NK, target_NK))
    return {
        "support": support_K,
        "predicted": predicted_K,
        "precision": _ratio(hits_K, predicted_K, empty=np.nan),
        "recall": _ratio(hits_K, support_K, empty=np.nan),
        "f1": _ratio(2 * hits_K, predicted_K + support_K, empty=0.0),
        "average_precision": average_precision(ranking),
        "auroc": auroc(ranking),
        "threshold": _as_thresholds(thresholds, target_NK.shape[1]),
    }


def rank(probabilities: np.ndarray, targets: np.ndarray) -> Ranking:
    """Sort the images of every class once, for all that depends on their order. Shapes and errors as in `score`."""
    probability_NK, target_NK = as_probabilities(probabilities), as_binary("targets", targets)
    check_same_shape("probabilities", probability_NK.shape, target_NK.shape)
    order_KN = np.argsort(np.ascontiguousarray(-probability_NK.T), axis=1)  # rows in memory: sorting is twice as fast
    score_KN = np.take_along_axis(probability_NK.T, order_KN, axis=1)
    hit_KN = np.take_along_axis(target_NK.T, order_KN, axis=1)

    num_images = score_KN.shape[1]
    position_N = np.arange(num_images)
    step_KN = score_KN[:, 1:] != score_KN[:, :-1]
    starts_KN, ends_KN = (np.pad(step_KN, ((0, 0), side), constant_values=True) for side in ((1, 0), (0, 1)))
    first_KN = np.maximum.accumulate(np.where(starts_KN, position_N, 0), axis=1)
    last_KN = np.minimum.accumulate(np.where(ends_KN, position_N, num_images)[:, ::-1], axis=1)[:, ::-1]
    return Ranking(score_KN, hit_KN, first_KN, last_KN)


def average_precision(ranking: Ranking) -> np.ndarray:
    """(K,) float64: the mean over a class's images of the precision at the end of their tie group; NaN without any."""
    precision_KN = ranking.hit_KN.cumsum(axis=1) / np.arange(1, ranking.hit_KN.shape[1] + 1)
    at_image_KN = np.take_along_axis(precision_KN, ranking.last_KN, axis=1)
    return _ratio((at_image_KN * ranking.hit_KN).sum(axis=1), ranking.hit_KN.sum(axis=1), empty=np.nan)


def auroc(ranking: Ranking) -> np.ndarray:
    """(K,) float64: share of (positive, negative) pairs in the right order, a tie counting half; NaN without a pair.

    It is the Mann-Whitney U from the mean rank of each tie group, exact in float64.
    """
    positives_K = ranking.hit_KN.sum(axis=1)
    negatives_K = ranking.hit_KN.shape[1] - positives_K
    middle_KN = (ranking.first_KN + ranking.last_KN) / 2 + 1
    wrong_pairs_K = (middle_KN * ranking.hit_KN).sum(axis=1) - positives_K * (positives_K + 1) / 2
    return 1.0 - _ratio(wrong_pairs_K, positives_K * negatives_K, empty=np.nan)


def _as_thresholds(thresholds: np.ndarray | None, num_classes: int) -> np.ndarray:
    array = np.full(num_classes, 0.5) if thresholds is None else np.array(thresholds, dtype=np.float64)
    check_same_shape("thresholds", array.shape, (num_classes,))
    if not np.isfinite(array).all():
        raise ValueError(f"threshold {array[~np.isfinite(array)][0]} is not finite: give each class a number in [0, 1]")
    return array


def _ratio(numerator: np.ndarray, denominator: np.ndarray, *, empty: float) -> np.ndarray:
    ratio = np.full(np.shape(denominator), empty)
    np.divide(numerator, denominator, out=ratio, where=np.asarray(denominator) > 0)
    return ratio


def _mean_where_defined(value_K: np.ndarray) -> tuple[float | None, int]:
    defined = value_K[~np.isnan(value_K)]
    return (float(defined.mean()) if len(defined) else None), len(defined)
