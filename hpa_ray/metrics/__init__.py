"""Multi-label scores, thresholds, and the floor any model has to beat. Before: model. After: evaluate."""

from hpa_ray.metrics.calibration import Reliability, reliability
from hpa_ray.metrics.curves import PrecisionRecall, precision_recall
from hpa_ray.metrics.floor import Floor, constant_floor, score_constant
from hpa_ray.metrics.intervals import Bootstrap, bootstrap
from hpa_ray.metrics.scores import (
    Scores,
    apply_thresholds,
    fill_empty,
    larger_is_better,
    per_class,
    score,
    score_predictions,
)
from hpa_ray.metrics.thresholds import (
    RULES,
    Fit,
    Rule,
    cross_fit,
    fit_thresholds,
    score_tuned,
    tune_thresholds,
)

__all__ = [
    "RULES",
    "Bootstrap",
    "Fit",
    "Floor",
    "PrecisionRecall",
    "Reliability",
    "Rule",
    "Scores",
    "apply_thresholds",
    "bootstrap",
    "constant_floor",
    "cross_fit",
    "fill_empty",
    "fit_thresholds",
    "larger_is_better",
    "per_class",
    "precision_recall",
    "reliability",
    "score",
    "score_constant",
    "score_predictions",
    "score_tuned",
    "tune_thresholds",
]
