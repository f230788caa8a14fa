"""Probabilities and truth -> one flat dict of scores, one table per class. Before: ranking. After: intervals, evaluate.

Names end in their axes: N image, K class. A class is predicted where probability >= threshold.

Conventions, for 0/0:
- F1, precision and recall of a class are 0 where undefined, as in the 2018 competition; the `macro` means are over all
  K classes, `macro_f1_present` over the classes with at least one image.
- An image without labels for which nothing is predicted is right: proportional accuracy and sample F1, precision and
  recall count it as 1. Otherwise the sample precision of an image without a prediction is 0, and so is the sample
  recall of one without a label.
- Average precision needs a positive, AUROC a positive and a negative: a class that lacks them is left out of `map` and
  `auroc`, and the number of classes that remain stands beside the mean. A mean over no class is None.
- Images with no label or with all labels: `ranking.image_rankings` says what they count.
"""

import numpy as np

from hpa_ray.metrics.arrays import (
    as_binary,
    as_pair,
    as_probabilities,
    as_thresholds,
    check_same_shape,
    mean_where,
    ratio,
)
from hpa_ray.metrics.calibration import class_ece, reliability
from hpa_ray.metrics.ranking import auroc, average_precision, image_rankings, rank

Scores = dict[str, float | int | None]

SMALLER_IS_BETTER = frozenset({"hamming_loss", "coverage_error", "ranking_loss", "brier", "ece"})


def larger_is_better(name: str) -> bool:
    """Whether a larger value of the score of this name, with or without `_tuned`, is the better one."""
    return name.removesuffix("_tuned") not in SMALLER_IS_BETTER


def apply_thresholds(probabilities: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
    """(N, K) probabilities, (K,) thresholds (0.5 where None) -> (N, K) bool. Raises ValueError as `score` does."""
    probability_NK = as_probabilities(probabilities)
    return probability_NK >= as_thresholds(thresholds, probability_NK.shape[1])


def fill_empty(probabilities: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """(N, K) bool: the predictions, and in rows without any the most probable class (the first of equal ones).

    No row of a submission may be empty. Raises ValueError as `score` does.
    """
    probability_NK, predicted_NK = as_pair(probabilities, predictions)
    empty_N = ~predicted_NK.any(axis=1)
    predicted_NK[empty_N, probability_NK[empty_N].argmax(axis=1)] = True
    return predicted_NK


def score(probabilities: np.ndarray, targets: np.ndarray, thresholds: np.ndarray | None = None) -> Scores:
    """All scores of (N, K) probabilities in [0, 1] against (N, K) targets of 0 and 1.

    thresholds: (K,), 0.5 where None.
    Returns the keys of `score_predictions`, then what needs probabilities: `map`, `num_map_classes`, `auroc`,
    `num_auroc_classes`; of the order of the classes within images `coverage_error`, `ranking_loss`,
    `label_ranking_average_precision`; and of the probabilities themselves `brier`, their mean squared distance to 0 and
    1 (Brier 1950), and `ece`, their pooled calibration error (`reliability`). Python numbers or None.
    Raises ValueError for non-finite or out-of-range values, shapes that do not match, and for no images.
    """
    ranking = rank(probabilities, targets)
    scores = score_predictions(apply_thresholds(probabilities, thresholds), targets)
    for name, value_K in (("map", average_precision(ranking)), ("auroc", auroc(ranking))):
        defined_K = ~np.isnan(value_K)
        scores[name] = _plain(mean_where(value_K, defined_K))
        scores[f"num_{name}_classes"] = int(defined_K.sum())
    scores |= {name: float(value_N.mean()) for name, value_N in image_rankings(probabilities, targets).items()}
    probability_NK, target_NK = as_pair(probabilities, targets)
    scores["brier"] = float(np.square(probability_NK - target_NK).mean())
    scores["ece"] = reliability(probability_NK, target_NK).ece
    return scores


def score_predictions(predictions: np.ndarray, targets: np.ndarray) -> Scores:
    """The scores that need decisions only: (N, K) predictions and targets of 0 and 1 -> Python numbers or None.

    Keys: those of `count_scores`, then the means of `image_scores`, then num_present_classes.
    Raises ValueError for values other than 0 and 1, shapes that do not match, and for no images.
    """
    predicted_NK, target_NK = as_binary("predictions", predictions), as_binary("targets", targets)
    check_same_shape("predictions", predicted_NK.shape, target_NK.shape)
    counts = (x.sum(axis=0) for x in (predicted_NK & target_NK, predicted_NK, target_NK))
    return {
        **{name: _plain(value) for name, value in count_scores(*counts).items()},
        **{name: float(value_N.mean()) for name, value_N in image_scores(predicted_NK, target_NK).items()},
        "num_present_classes": int(target_NK.any(axis=0).sum()),
    }


def count_scores(hits_K: np.ndarray, predicted_K: np.ndarray, support_K: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that need of every class only how many images have it, are predicted to, and both; (..., K) -> (...).

    macro_f1, micro_f1, precision_macro, recall_macro, precision_micro, recall_micro, macro_f1_present; NaN where
    undefined.
    """
    f1_K = ratio(2 * hits_K, predicted_K + support_K, empty=0.0)
    hits, predicted, support = (x.sum(axis=-1) for x in (hits_K, predicted_K, support_K))
    return {
        "macro_f1": f1_K.mean(axis=-1),
        "micro_f1": ratio(2 * hits, predicted + support, empty=0.0),
        "precision_macro": ratio(hits_K, predicted_K, empty=0.0).mean(axis=-1),
        "recall_macro": ratio(hits_K, support_K, empty=0.0).mean(axis=-1),
        "precision_micro": ratio(hits, predicted, empty=0.0),
        "recall_micro": ratio(hits, support, empty=0.0),
        "macro_f1_present": mean_where(f1_K, support_K > 0),
    }


def image_scores(predicted_NK: np.ndarray, target_NK: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that are means over images of (N,) float64 values: (N, K) bool arrays -> those values.

    exact_match, proportional_accuracy (|Y and Z| / |Y or Z|), sample_f1, sample_precision, sample_recall, hamming_loss.
    """
    hits_N, predicted_N, support_N = (x.sum(axis=1) for x in (predicted_NK & target_NK, predicted_NK, target_NK))
    both_empty_N = (predicted_N + support_N == 0).astype(np.float64)
    return {
        "exact_match": (predicted_NK == target_NK).all(axis=1).astype(np.float64),
        "proportional_accuracy": ratio(hits_N, predicted_N + support_N - hits_N, empty=both_empty_N),
        "sample_f1": ratio(2 * hits_N, predicted_N + support_N, empty=both_empty_N),
        "sample_precision": ratio(hits_N, predicted_N, empty=both_empty_N),
        "sample_recall": ratio(hits_N, support_N, empty=both_empty_N),
        "hamming_loss": (predicted_NK != target_NK).mean(axis=1),
    }


def per_class(
    probabilities: np.ndarray, targets: np.ndarray, thresholds: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A table with a row per class, as (K,) columns.

    int64: support, predicted. float64: precision, recall, f1, average_precision, auroc, threshold, ece.
    NaN where undefined (precision of a class never predicted, recall of one without images); only f1 is then 0, so
    that its mean is `macro_f1`. Shapes and errors as in `score`.
    """
    ranking = rank(probabilities, targets)
    predicted_NK, target_NK = apply_thresholds(probabilities, thresholds), as_binary("targets", targets)
    hits_K, predicted_K, support_K = (x.sum(axis=0) for x in (predicted_NK & target_NK, predicted_NK, target_NK))
    return {
        "support": support_K,
        "predicted": predicted_K,
        "precision": ratio(hits_K, predicted_K, empty=np.nan),
        "recall": ratio(hits_K, support_K, empty=np.nan),
        "f1": ratio(2 * hits_K, predicted_K + support_K, empty=0.0),
        "average_precision": average_precision(ranking),
        "auroc": auroc(ranking),
        "threshold": as_thresholds(thresholds, target_NK.shape[1]),
        "ece": class_ece(probabilities, targets),
    }


def _plain(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)
