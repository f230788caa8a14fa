"""A classifier as one ONNX file: uint8 images in, logits and probabilities out. Before: checkpoint. After: cli.

Needs the extra `onnx`, which is imported only here.
"""

import json
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from hpa_ray.checkpoint.model_file import ModelCard, ShippedModel
from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_NAMES

ONNX_FILE = "model.onnx"
OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

# B images, C stains, S side in px, K classes


class WithProbabilities(nn.Module):
    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images_BCSS: Tensor) -> tuple[Tensor, Tensor]:
        logits_BK = self.classifier(images_BCSS)
        return logits_BK, logits_BK.sigmoid()


def missing_packages() -> list[str]:
    """What of the extra `onnx` is not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def onnx_bytes(shipped: ShippedModel) -> bytes:
    """The file: input `images` (batch, C, S, S) uint8; outputs `logits` and `probabilities` (batch, K) float32.

    Vocabulary, class names, thresholds and stain order are in its metadata. Raises InputError for an architecture that
    PyTorch can not export.
    """
    import onnx

    card = shipped.card
    side = card.image_size
    example = torch.zeros(2, len(card.channels), side, side, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts, about each other
        try:
            program = torch.onnx.export(
                WithProbabilities(shipped.model).eval(),
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=2**16)},),
            )
        except Exception as error:  # whatever a translation of some thousand operators trips over
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"model.name = {card.model.name}: can not be written as ONNX ({reason}) - export with export.onnx=false"
            ) from error
        assert program is not None
        model = program.model_proto
    for name, value in _metadata(card).items():
        model.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _metadata(card: ModelCard) -> dict[str, str]:
    return {
        "vocabulary": card.vocabulary,
        "class_names": json.dumps(CLASS_NAMES),
        "thresholds": json.dumps(card.thresholds),
        "stain_order": card.stain_order,
        "channels": json.dumps(card.channels),
        "image_size": str(card.image_size),
        "run": card.run,
        "epoch": str(card.epoch),
    }
