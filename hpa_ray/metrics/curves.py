"""Precision against recall, for drawing. Before: scores. After: report."""

import numpy as np

from hpa_ray.metrics.scores import as_binary, as_probabilities, check_same_shape


def precision_recall(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) probabilities and targets of one class -> precision, recall and threshold of every cut, thresholds rising.

    Precision and recall end with one value more, 1 and 0, for predicting nothing. Raises ValueError without positives.
    """
    probability_N = as_probabilities(np.asarray(probabilities)[:, None])[:, 0]
    target_N = as_binary("targets", np.asarray(targets)[:, None])[:, 0]
    check_same_shape("probabilities", probability_N.shape, target_N.shape)
    if not target_N.any():
        raise ValueError("no image has the class: recall is not defined")
    order = np.argsort(-probability_N, kind="stable")
    score_N, hits_N = probability_N[order], target_N[order].cumsum()
    last = np.flatnonzero(np.append(score_N[1:] != score_N[:-1], True))
    precision, recall = hits_N[last] / (last + 1), hits_N[last] / hits_N[-1]
    return np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0), score_N[last][::-1]
