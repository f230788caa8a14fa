"""A checksum of the weights in a .safetensors file and of the card beside them; the format itself has none.

Before: a state_dict. After: checkpoint/model_file.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CARD_KEY = "hpa_ray"
"""What the metadata of a file of ours has the card of the model under, JSON."""
CHECKSUM = "checksum"
"""Field of the card; cards of the time before it have none, and are read."""


def with_checksum(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {**card, CHECKSUM: _digest(card, tensors)}


def is_intact(card: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether card and tensors are those that were written, as far as a checksum can tell."""
    if not isinstance(card, dict) or CHECKSUM not in card:
        return True
    rest = {name: value for name, value in card.items() if name != CHECKSUM}
    return bool(card[CHECKSUM] == _digest(rest, tensors))


def _digest(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the card and of every tensor with its name, type and shape, in whatever order they lie."""
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
