"""Whether an exported file says what the model says. Before: export/onnx_file. After: cli."""

import numpy as np
import torch

from hpa_ray.checkpoint.model_file import ShippedModel, load_model

NUM_IMAGES = 8
TOLERANCE = 1e-3
"""Of a logit; measured differences are about 1e-5."""


def largest_difference(shipped: ShippedModel, file: str, content: bytes | None = None) -> float:
    """Of the logits of NUM_IMAGES random images: a model file, or the bytes of an ONNX file, against the model."""
    card = shipped.card
    shape = (NUM_IMAGES, len(card.channels), card.image_size, card.image_size)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected_BK = _logits(shipped, images)
    if content is None:
        found_BK = _logits(load_model(file), images)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        found_BK = session.run(["logits"], {"images": images})[0]
    return float(np.abs(found_BK - expected_BK).max())


@torch.inference_mode()
def _logits(shipped: ShippedModel, images: np.ndarray) -> np.ndarray:
    return np.asarray(shipped.model.cpu().eval()(torch.from_numpy(images)).numpy())
