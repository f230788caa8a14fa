"""What only torch can tell: whether it sees the GPUs, and how large the model is. Runs in a process of its own (child).

The model is built on torch's `meta` device: no memory, no arithmetic, and real shapes.
"""

import os
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from hpa_ray.config import ModelConfig
from hpa_ray.config.architectures import TIMM
from hpa_ray.doctor.places import ENDINGS
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model import build_model
from hpa_ray.model.meta import on_meta

IMAGES = 2


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """model, channels, image_size and sizes of the training -> cuda, and of the model its network or its problems."""
    found: dict[str, Any] = {"cuda": _cuda()}
    config = ModelConfig.model_validate(question["model"])
    try:
        found["network"] = _network(config, question["channels"], question["image_size"], question["sizes"])
        found["download"] = _download(config)
    except InputError as error:
        found["problems"] = list(error.problems)
    return found


def _cuda() -> dict[str, Any]:
    available = torch.cuda.is_available()
    why = ""
    if not available:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            why = str(error).partition("\n")[0][:200]
    return {"num_gpus": torch.cuda.device_count() if available else 0, "built_for": torch.version.cuda, "why_not": why}


def _network(config: ModelConfig, channels: list[str], image_size: int, sizes: list[int]) -> dict[str, int]:
    settings: dict[str, Any] = {
        "channels": channels,
        "image_size": image_size,
        "mean": [0.0] * len(channels),
        "std": [1.0] * len(channels),
        "num_classes": NUM_CLASSES,
        "seed": 0,
        "load_weights": False,
    }
    try:
        with torch.device("meta"):
            model = build_model(config, **settings)
    except NotImplementedError:  # RegNet computes its widths with tensors
        model = on_meta(build_model(config, **settings))
    for size in sizes:
        model.check_image_size(size)
    values = 0

    def count(module: nn.Module, given: Any, output: Any) -> None:
        nonlocal values
        if isinstance(output, Tensor) and not getattr(module, "inplace", False):
            values += output.numel()

    for module in model.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(count)
    model(torch.empty(IMAGES, len(channels), image_size, image_size, dtype=torch.uint8, device="meta"))
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "activation_values": values // IMAGES,
    }


def _download(config: ModelConfig) -> str:
    """The address of pretrained weights that are not on this machine yet. Raises InputError for an unknown name."""
    name, weights = config.name, config.weights
    if weights is None or weights.endswith(ENDINGS) or name.startswith(TIMM):
        return ""
    base = "resnet50" if name == "resnet50_enhanced" else name
    if base not in torchvision.models.list_models(module=torchvision.models):
        raise InputError(f"model.weights = {weights}: {name} has no published weights - give a file, or none")
    known = torchvision.models.get_model_weights(base)
    wanted = "DEFAULT" if weights.upper() == "DEFAULT" else weights
    if wanted not in known.__members__:
        names = ", ".join(member.name for member in known)
        raise InputError(f"model.weights = {weights}: no weights of {name} - give one of {names}")
    url: str = known[wanted].url
    stored = os.path.join(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    return "" if os.path.exists(stored) else url
