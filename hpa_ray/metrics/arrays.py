"""What every score asks of its arrays, and 0/0. Before: probabilities, labels. After: ranking, scores, thresholds."""

import numpy as np


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


def as_pair(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one shape: (N, K) float64 probabilities, (N, K) bool targets. Raises ValueError."""
    probability_NK, target_NK = as_probabilities(probabilities), as_binary("targets", targets)
    check_same_shape("probabilities", probability_NK.shape, target_NK.shape)
    return probability_NK, target_NK


def as_thresholds(thresholds: np.ndarray | None, num_classes: int) -> np.ndarray:
    """(K,) float64, 0.5 where None. Raises ValueError for another number of them and for one that is not finite."""
    array = np.full(num_classes, 0.5) if thresholds is None else np.array(thresholds, dtype=np.float64)
    check_same_shape("thresholds", array.shape, (num_classes,))
    if not np.isfinite(array).all():
        raise ValueError(f"threshold {array[~np.isfinite(array)][0]} is not finite: give each class a number in [0, 1]")
    return array


def check_same_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raises ValueError when `shape` is not the expected one."""
    if shape != expected:
        raise ValueError(
            f"{name} have shape {shape}, expected {expected}: score the same images and classes, one threshold each"
        )


def ratio(numerator: np.ndarray, denominator: np.ndarray, *, empty: float | np.ndarray) -> np.ndarray:
    """numerator / denominator, float64; `empty` where the denominator is 0."""
    found = np.array(np.broadcast_to(empty, np.shape(denominator)), dtype=np.float64)
    np.divide(numerator, denominator, out=found, where=np.asarray(denominator) > 0)
    return found


def mean_where(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the values where `where` is true, NaN without any; (..., K) -> (...)."""
    total = np.where(where, values, 0.0).sum(axis=-1)
    return ratio(total, where.sum(axis=-1), empty=np.nan)
