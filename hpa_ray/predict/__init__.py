"""A shipped model on images or shards: probabilities, labels, and the competition's submission file."""

from hpa_ray.predict.infer import Predictions, infer
from hpa_ray.predict.submission import labels_of, write_submission

__all__ = ["Predictions", "infer", "labels_of", "write_submission"]
