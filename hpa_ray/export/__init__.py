"""A trained model as files for others: safetensors, ONNX, and a card that says what it is and is not for."""

from hpa_ray.export.card import model_card
from hpa_ray.export.check import TOLERANCE, largest_difference
from hpa_ray.export.onnx_file import ONNX_FILE, missing_packages, onnx_bytes

__all__ = ["ONNX_FILE", "TOLERANCE", "largest_difference", "missing_packages", "model_card", "onnx_bytes"]
