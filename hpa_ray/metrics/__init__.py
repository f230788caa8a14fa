"""Multi-label scores, thresholds, and the floor any model has to beat. Before: model. After: evaluate."""

from hpa_ray.metrics.floor import Floor, constant_floor, score_constant
from hpa_ray.metrics.scores import Scores, apply_thresholds, per_class, score, score_predictions
from hpa_ray.metrics.thresholds import cross_fit, score_tuned, tune_thresholds

__all__ = [
    "Floor",
    "Scores",
    "apply_thresholds",
    "constant_floor",
    "cross_fit",
    "per_class",
    "score",
    "score_constant",
    "score_predictions",
    "score_tuned",
    "tune_thresholds",
]
