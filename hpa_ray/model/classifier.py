"""Normalisation and a backbone in one module: what trains and is stored. Before: backbones. After: train."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpa_ray.errors import InputError
from hpa_ray.model.backbones import Backbone
from hpa_ray.model.meta import on_meta

# B images, C stains, S side in px, K classes

LEAST_STD = 1e-3
"""Of a stain, on the 0 to 1 scale; a black one has none."""
LEAST_INTENSITY = 1e-6
"""Below it the slope of intensity ** gamma is held finite; the darkest gray level but black is 4e-3."""
LARGEST_SIDE = 4096


class Classifier(nn.Module):
    """Takes images as they are stored, so a stored model needs nothing but its file."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        normalize: str = "source",
        learned_gamma: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std_C", torch.tensor(std, dtype=torch.float32).clamp_min(LEAST_STD))
        self.log_gamma_C = nn.Parameter(torch.zeros(len(mean))) if learned_gamma else None
        self.by_image = normalize == "image"
        self.architecture = backbone.name
        self.backbone = backbone.module
        self.frozen = False
        self._head_name = backbone.head

    @property
    def head(self) -> nn.Linear | nn.Conv2d:
        """The last layer: nn.Linear, but for SqueezeNet and a few of timm a 1x1 nn.Conv2d."""
        layer = self.backbone.get_submodule(self._head_name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        return layer

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """(B, C, S, S) uint8, or float32 on the same scale of 0 to 255 -> (B, K) logits."""
        logits_BK: Tensor = self.backbone(self.normalized(images_BCSS))
        return logits_BK

    def with_embedding(self, images_BCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Images as in forward -> (B, K) logits and (B, F) float32, what the last layer sees, without its dropout."""
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        try:
            logits_BK = self(images_BCSS)
        finally:
            handle.remove()
        features = seen[0].float()
        return logits_BK, features.mean((2, 3)) if features.ndim == 4 else features

    def normalized(self, images_BCSS: Tensor) -> Tensor:
        """(B, C, S, S) as in forward -> float32 with about zero mean and unit variance, what the backbone sees."""
        x = images_BCSS.float() / 255
        if self.log_gamma_C is not None:
            # x * x ** (gamma - 1) with its base held off zero: x itself at gamma 1, and all gradients finite for black
            x = x.clamp_min(0)
            x = x * x.clamp_min(LEAST_INTENSITY) ** (self.log_gamma_C.exp() - 1).view(-1, 1, 1)
        if self.by_image:
            centred = x - x.mean((2, 3), keepdim=True)
            variance = centred.square().mean((2, 3), keepdim=True)
            return centred / variance.clamp_min(LEAST_STD**2).sqrt()
        return (x - self.mean_C.view(-1, 1, 1)) / self.std_C.view(-1, 1, 1)

    def freeze(self, on: bool) -> None:
        """Let only the last layer train, or everything again.

        While frozen all else is in eval mode also during training, so that the statistics of batch normalisation stay.
        """
        self.frozen = on
        self.requires_grad_(not on)
        self.head.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode and not self.frozen)
        self.training = mode
        self.head.train(mode)
        return self

    def check_image_size(self, side: int) -> None:
        """Raises InputError if images of this side in px can not go in. Nothing is computed: shapes alone."""
        model = on_meta(self).eval()

        def problem(side: int) -> str:
            try:
                with torch.no_grad():
                    model(torch.empty(2, len(self.mean_C), side, side, dtype=torch.uint8, device="meta"))
            except (RuntimeError, ValueError, AssertionError) as error:
                return " ".join(str(error).split())[:150] or type(error).__name__
            return ""

        reason = problem(side)
        if not reason:
            return
        too_small, enough = side, side * 2
        while enough <= LARGEST_SIDE and problem(enough):
            too_small, enough = enough, enough * 2
        if enough > LARGEST_SIDE or problem(enough * 2):  # no size, or only some
            advice = "prepare them at a side that it takes, or choose another architecture"
            raise InputError(
                f"model.name = {self.architecture}: can not take images of {side} px ({reason}) - {advice}"
            )
        while enough - too_small > 1:
            middle = (too_small + enough) // 2
            too_small, enough = (middle, enough) if problem(middle) else (too_small, middle)
        raise InputError(
            f"model.name = {self.architecture}: takes images of {enough} px or more, these have {side} - "
            "give a larger data.image_size, or choose another architecture"
        )
