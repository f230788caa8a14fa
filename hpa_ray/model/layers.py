"""The layers of a model with shapes and sizes, for a table. Before: model/classifier. After: train, cli."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from hpa_ray.model.classifier import Classifier
from hpa_ray.model.meta import on_meta

# C stains, S side in px

MOST_ROWS = 60
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LEFT_OUT = ("Identity", "Dropout")
"""What is no layer of the network in use."""
NEARLY_ALL = 0.9
"""Share of all parameters from which a module is opened whatever it is, such as the encoder of a transformer."""


class Layer(NamedTuple):
    name: str
    """As in the state of the backbone."""
    kind: str
    output_shape: tuple[int, ...]
    """Without the batch; of a bare parameter its own."""
    num_parameters: int


def layer_table(model: Classifier, *, channels: int, image_size: int) -> list[Layer]:
    """The stages of a model from the image to the logits: for ResNets the stem, each block, pooling and last layer.

    Containers are opened level by level as long as there are at most MOST_ROWS rows. The numbers of parameters add up
    to that of the model. Nothing is computed and no memory taken: shapes alone go through.
    """
    copy = on_meta(model).eval()
    modules = dict(copy.backbone.named_modules())
    total = sum(p.numel() for p in copy.parameters())
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in modules.items():
        module.register_forward_hook(_note(name, shapes))
    with torch.no_grad():
        copy(torch.empty(2, channels, image_size, image_size, dtype=torch.uint8, device="meta"))

    rows = _opened(modules, "")
    while True:
        wider = [
            inner
            for name in rows
            for inner in (_opened(modules, name) if _is_container(modules.get(name), total) else [name])
        ]
        shown = sum(type(modules.get(name)).__name__ not in LEFT_OUT for name in wider)
        if wider == rows or (shown > MOST_ROWS and all(name in shapes or name not in modules for name in rows)):
            break
        rows = wider
    parameters = dict(copy.backbone.named_parameters())
    layers = [
        Layer(name, _kind(modules[name]), shapes[name], sum(p.numel() for p in modules[name].parameters()))
        if name in modules
        else Layer(name, "Parameter", tuple(parameters[name].shape), parameters[name].numel())
        for name in rows
        if name in shapes or name in parameters
    ]
    if copy.log_gamma_C is not None:
        layers.insert(0, Layer("log_gamma_C", "Parameter", (channels,), channels))
    return [layer for layer in layers if layer.kind not in LEFT_OUT]


def _opened(modules: dict[str, nn.Module], name: str) -> list[str]:
    """The full names of what is directly in a module: bare parameters, then modules."""
    module = modules[name]
    inner = [key for key, _ in module.named_parameters(recurse=False)] + [key for key, _ in module.named_children()]
    return [f"{name}.{key}".lstrip(".") for key in inner]


def _is_container(module: nn.Module | None, total: int) -> bool:
    if module is None or not any(True for _ in module.children()):
        return False
    if isinstance(module, CONTAINERS):
        return not isinstance(module, Conv2dNormActivation)
    return sum(p.numel() for p in module.parameters()) > NEARLY_ALL * total


def _kind(module: nn.Module) -> str:
    kind = type(module).__name__
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        size, stride = _number(module.kernel_size), _number(module.stride)
        kind += f" {size}x{size}" + (f", stride {stride}" if stride > 1 else "")
    return kind


def _number(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def _note(name: str, shapes: dict[str, tuple[int, ...]]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        shapes[name] = tuple(first.shape[1:])

    return hook
