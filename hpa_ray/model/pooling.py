"""From a map of features to one vector per image: other ways than the mean. Before: torch. After: model/backbones.

Most networks hold their mean as a module, which is replaced. DenseNet, MobileNetV2, MNASNet and ShuffleNetV2 take it in
their forward: there the pooling is appended to the features, and the mean of the single pixel it leaves is that pixel.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hpa_ray.errors import InputError

# B images, F features, s side of the map

GEM_EXPONENT = "exponent"
"""Name of GeM's parameter, by which weights/adapt knows it."""


class AvgMax(nn.Module):
    """Mean and maximum of each feature, side by side."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, s, s) -> (B, 2 F, 1, 1)"""
        return torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], dim=1)


class GeM(nn.Module):
    """Generalised mean (mean of x ** p) ** (1 / p): the mean at p = 1, towards the maximum as p grows; p is learned.

    Features below `eps` count as `eps`, negative ones too. Powers are taken in float32 also under autocast.
    Radenovic, Tolias, Chum, "Fine-tuning CNN image retrieval with no human annotation", 2018 (arXiv 1711.02512).
    """

    def __init__(self, exponent: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.full((1,), exponent))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, s, s) -> (B, F, 1, 1)"""
        powers = x.float().clamp_min(self.eps) ** self.exponent
        return (powers.mean((2, 3), keepdim=True) ** (1 / self.exponent)).to(x.dtype)


POOLS: dict[str, type[nn.Module]] = {"avgmax": AvgMax, "gem": GeM}
REPLACED = {
    "resnet": "avgpool", "resnext": "avgpool", "wide_resnet": "avgpool", "regnet": "avgpool", "googlenet": "avgpool",
    "inception": "avgpool", "efficientnet": "avgpool", "swin": "avgpool", "convnext": "avgpool",
    "mobilenet_v3": "avgpool", "maxvit": "classifier.0",
}  # fmt: skip
"""Beginning of an architecture's name: the module that takes the mean."""
APPENDED = {"densenet": "features", "mobilenet_v2": "features", "mnasnet": "layers", "shufflenet": "conv5"}
"""The Sequential whose output is averaged."""
SAME_WIDTH = ("convnext", "mobilenet_v3", "maxvit")
"""There more layers stand between pooling and the last, which would have to be widened too."""


def set_pooling(name: str, backbone: nn.Module, head: str, pooling: str) -> None:
    """Change the pooling of the network `name` in place, and its last layer if there are more features then.

    Raises InputError where the architecture can not have this pooling.
    """
    if pooling == "avg":
        return
    replaced, appended = _of(REPLACED, name), _of(APPENDED, name)
    able = ["avg"]
    if replaced or appended:
        able += ["gem"] if name.startswith(SAME_WIDTH) else ["avgmax", "gem"]
    if pooling not in able:
        reason = (
            "no mean over a map right before the last layer" if len(able) == 1 else "layers of a fixed width follow"
        )
        advice = f"give model.pooling = {' or '.join(able)}"
        raise InputError(f"model.pooling = {pooling}: {name} can not have it ({reason}) - {advice}")
    pool = POOLS[pooling]()
    if replaced:
        backbone.set_submodule(replaced, pool)
    else:
        # DenseNet's features end before a ReLU; the others' with one, where a second changes nothing
        features: Any = backbone.get_submodule(appended)
        features.add_module("pool", nn.Sequential(nn.ReLU(), pool))
    if pooling == "avgmax":
        old = backbone.get_submodule(head)
        assert isinstance(old, nn.Linear)
        backbone.set_submodule(head, nn.Linear(2 * old.in_features, old.out_features))


def _of(places: dict[str, str], name: str) -> str:
    return next((place for beginning, place in places.items() if name.startswith(beginning)), "")
