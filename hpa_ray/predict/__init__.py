"""Shipped models on images or shards: probabilities, labels, and the competition's submission file."""

from hpa_ray.predict.ensemble import Ensemble, Member, alone, ensemble_of, open_ensemble, open_members
from hpa_ray.predict.infer import Given, Predictions, infer
from hpa_ray.predict.parts import Chunks, Parts, identity_of
from hpa_ray.predict.resumable import predict_parts
from hpa_ray.predict.submission import filled_labels, labels_of, write_submission

__all__ = [
    "Chunks",
    "Ensemble",
    "Given",
    "Member",
    "Parts",
    "Predictions",
    "alone",
    "ensemble_of",
    "filled_labels",
    "identity_of",
    "infer",
    "labels_of",
    "open_ensemble",
    "open_members",
    "predict_parts",
    "write_submission",
]
