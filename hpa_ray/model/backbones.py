"""The name of an architecture -> a network with the stains going in and the classes coming out. After: classifier."""

from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn
from torchvision.models import MNASNet

from hpa_ray.config.architectures import TIMM
from hpa_ray.config.sections import ModelConfig
from hpa_ray.errors import InputError
from hpa_ray.model.heads import set_dropout
from hpa_ray.model.own import MLP6, enhance
from hpa_ray.model.pooling import set_pooling
from hpa_ray.model.timm_models import make_timm

# C stains, S side in px, K classes

RESIDUAL = ("resnet", "resnext", "wide_resnet")
MAXVIT_SIDE_PX = 224


class Backbone(NamedTuple):
    name: str
    module: nn.Module
    """(B, C, S, S) float32 -> (B, K) logits."""
    stem: str | None
    """Name of the first convolution in the module; None if there is none."""
    head: str
    """Name of the last layer, a Linear or a 1x1 convolution."""


def make_backbone(cfg: ModelConfig, *, num_channels: int, image_size: int, num_classes: int) -> Backbone:
    """Weights come from the global random state. Raises InputError.

    cfg.dropout is what happens before the last layer: a dropout that the architecture has there itself is replaced.
    """
    if cfg.name.startswith(TIMM):
        made = make_timm(cfg.name, num_channels, image_size, num_classes, cfg.pooling)
        backbone = Backbone(cfg.name, *made)
    elif cfg.name == "mlp6":
        backbone = Backbone(cfg.name, MLP6(num_channels * image_size**2, num_classes), stem=None, head="fc6")
        set_pooling(backbone.name, backbone.module, backbone.head, cfg.pooling)
    else:
        backbone = _from_torchvision(cfg.name, num_channels, image_size, num_classes)
        set_pooling(backbone.name, backbone.module, backbone.head, cfg.pooling)
    set_dropout(backbone.module, backbone.head, cfg.dropout)
    return backbone


def _from_torchvision(name: str, num_channels: int, image_size: int, num_classes: int) -> Backbone:
    module = _torchvision_model(name, image_size, num_classes)
    if name.startswith("squeezenet"):
        # it ends in a ReLU and then the mean: no logit below 0, so no class could ever be called absent
        module.set_submodule("classifier.2", nn.Identity())
    if name == "resnet50_enhanced":
        enhance(module)
    layers = list(module.named_modules())
    stem = next(key for key, layer in layers if isinstance(layer, nn.Conv2d))
    head = [key for key, layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    _set_channels(module, stem, num_channels)
    return Backbone(name, module, stem, head)


def _torchvision_model(name: str, image_size: int, num_classes: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name.startswith(RESIDUAL):
        # each residual block starts as the identity, which trains better from scratch (Goyal et al. 2017)
        options["zero_init_residual"] = True
    elif name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "transform_input": False, "init_weights": True}
    elif name.startswith("vit_"):
        patch = int(name.rpartition("_")[2])
        _check_multiple(name, image_size, patch)
        options["image_size"] = image_size
    elif name.startswith("maxvit"):
        _check_multiple(name, image_size, MAXVIT_SIDE_PX)  # windows of 7 on maps of 1/4 to 1/32 of the side
        options["input_size"] = (image_size, image_size)
    elif name.startswith("mnasnet"):
        width = float(name.removeprefix("mnasnet").replace("_", "."))
        return _MNASNet(width, num_classes=num_classes)
    base = "resnet50" if name == "resnet50_enhanced" else name
    module: nn.Module = torchvision.models.get_model(base, weights=None, num_classes=num_classes, **options)
    return module


class _MNASNet(MNASNet):  # type: ignore[misc]
    """Also takes weights without version numbers, as a .safetensors file holds them."""

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, {"version": 2, **local_metadata}, *rest)


def _check_multiple(name: str, side: int, unit: int) -> None:
    if side % unit:
        near = [unit * k for k in (side // unit, side // unit + 1) if k]
        raise InputError(
            f"model.name = {name}: takes images whose side is a multiple of {unit} px, these have {side} - "
            f"give data.image_size = {' or '.join(map(str, near))}, or choose another architecture"
        )


def _set_channels(module: nn.Module, stem: str, num_channels: int) -> None:
    """Another first convolution where the number of stains asks for it, drawn for ReLU as most architectures do.

    In a transformer or ConvNeXt, whose patches do not overlap, that would be too small by far: there the new filters
    have the spread of those they replace, by the number of inputs.
    """
    old = module.get_submodule(stem)
    assert isinstance(old, nn.Conv2d)
    if old.in_channels == num_channels:
        return
    new = nn.Conv2d(
        num_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    if old.stride == old.kernel_size:
        with torch.no_grad():
            new.weight.normal_().mul_(old.weight.std() * (old.in_channels / num_channels) ** 0.5)
    else:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    module.set_submodule(stem, new)
