"""What is stored of a run: the folder, the state to resume from, the results, the model to ship."""

from hpa_ray.checkpoint.model_file import MODEL_FILE, ModelCard, ShippedModel, load_model, save_model
from hpa_ray.checkpoint.results import floor_scores, prediction_table, scores_of, write_results
from hpa_ray.checkpoint.run_folder import RunFolder

__all__ = [
    "MODEL_FILE",
    "ModelCard",
    "RunFolder",
    "ShippedModel",
    "floor_scores",
    "load_model",
    "prediction_table",
    "save_model",
    "scores_of",
    "write_results",
]
