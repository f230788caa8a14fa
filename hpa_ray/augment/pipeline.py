"""The augmentation of a configuration as one module. Before: geometry, pixels, mixing. After: train."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hpa_ray.augment.draws import Draws, DrawTable, Step
from hpa_ray.augment.geometry import Warp
from hpa_ray.augment.mixing import Mixing
from hpa_ray.augment.pixels import Blackout, Blur, Intensity, Noise
from hpa_ray.augment.presets import Amounts, amounts_of
from hpa_ray.augment.symmetry import SquareSymmetry
from hpa_ray.config import AugmentConfig

# B images, C stains, S side in px, K classes

CPU_VALUES_PER_THREAD = 2**19
"""Pixels that a thread of a CPU takes through all steps at a time, 2 MB: a whole batch would leave the cache in every
step, and buffers above 32 MB come from the system each time. Many times as fast as the whole batch."""


class Strength(nn.Module):
    """By how much the amounts of each image are multiplied: images of rare classes have their own factor."""

    rare_K: Tensor

    def __init__(self, cfg: AugmentConfig, class_counts_K: np.ndarray, num_images: int) -> None:
        super().__init__()
        self.rare = cfg.strength * cfg.rare_strength
        self.other = 0.0 if cfg.rare_only else cfg.strength
        rare_K = np.asarray(class_counts_K) < cfg.rare_share * num_images
        self.register_buffer("rare_K", torch.from_numpy(rare_K), persistent=False)
        self.most = max(self.rare, self.other)

    def forward(self, targets_BK: Tensor) -> Tensor:
        is_rare_B = ((targets_BK > 0) & self.rare_K).any(dim=1)
        return torch.where(is_rare_B, self.rare, self.other).to(torch.float32)


class Augment(nn.Module):
    """Images, targets and seeds of a batch -> augmented images and targets; identity in eval mode.

    Order: symmetries and resampling, intensity, blur, noise, blackouts, mixing. Steps whose amounts are 0 are left out.
    """

    def __init__(self, amounts: Amounts, strength: Strength, channels: Sequence[str]) -> None:
        super().__init__()
        self.num_stains = len(channels)
        self.strength = strength
        self.symmetry = SquareSymmetry(flip=amounts.flip, quarter_turn=amounts.quarter_turn)
        on = strength.most > 0
        moved = (amounts.rotate_deg, amounts.scale, amounts.shift, amounts.shear_deg, amounts.crop, amounts.elastic)
        self.warp = Warp(amounts, self.symmetry) if on and any(moved) else None
        steps: list[Step] = []
        if on and (amounts.gain or amounts.gamma or amounts.contrast):
            steps.append(Intensity(amounts, self.num_stains))
        if on and amounts.blur:
            steps.append(Blur(amounts, strength.most))
        if on and amounts.noise:
            steps.append(Noise(amounts, self.num_stains))
        if on and (amounts.stain_dropout or amounts.cutout):
            steps.append(Blackout(amounts, channels))
        self.steps = nn.ModuleList(steps)
        mixes = on and amounts.mix_probability and (amounts.mixup or amounts.cutmix)
        self.mixing = Mixing(amounts) if mixes else None
        drawing = [step for step in (self.warp, *steps, self.mixing) if step is not None]
        shapes = {stream: shape for step in drawing for stream, shape in step.shapes.items()}
        self.draws = DrawTable(shapes) if shapes else None

    @torch.no_grad()
    def forward(self, images_BCSS: Tensor, targets_BK: Tensor, seeds_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) uint8, or float32 on the same scale of 0 to 255; (B, K) float32; (B,) int64.

        Images come back as they came where pixels are moved whole, and else as float32 from 0 to 255.
        """
        assert images_BCSS.shape[1] == self.num_stains
        if not self.training or not len(images_BCSS):
            return images_BCSS, targets_BK
        if self.draws is None:
            return self.symmetry(images_BCSS, seeds_B), targets_BK
        with torch.autocast(images_BCSS.device.type, enabled=False):  # in bf16, places of pixels are off by whole ones
            draws, strength_B = self.draws(seeds_B), self.strength(targets_BK)
            images = torch.empty_like(images_BCSS, dtype=torch.float32)
            for part in self._parts(images_BCSS):
                some = {stream: values[part] for stream, values in draws.items()}
                self._transform(images_BCSS[part], seeds_B[part], some, strength_B[part], out=images[part])
            return (images, targets_BK) if self.mixing is None else self.mixing(images, targets_BK, draws, strength_B)

    def _transform(
        self, images_BCSS: Tensor, seeds_B: Tensor, draws: Draws, strength_B: Tensor, *, out: Tensor
    ) -> None:
        """All that is done to a sample alone."""
        if self.warp is None:
            images_BCSS = self.symmetry(images_BCSS, seeds_B)
        images = images_BCSS.clamp(0, 255) if images_BCSS.is_floating_point() else images_BCSS.float()  # ours to change
        if self.warp is not None:
            images = self.warp(images, draws, strength_B, seeds_B)
        for step in self.steps:
            images = step(images, draws, strength_B)
        torch.clamp(images, 0, 255, out=out)

    def _parts(self, images_BCSS: Tensor) -> list[slice]:
        """On a CPU some images at a time, on a GPU all of them; what becomes of each does not depend on it."""
        num_images = len(images_BCSS)
        if images_BCSS.device.type != "cpu":
            return [slice(0, num_images)]
        at_a_time = max(1, CPU_VALUES_PER_THREAD * torch.get_num_threads() // images_BCSS[0].numel())
        return [slice(start, start + at_a_time) for start in range(0, num_images, at_a_time)]


def build_augment(
    cfg: AugmentConfig, *, channels: Sequence[str], class_counts_K: np.ndarray, num_images: int
) -> Augment:
    """The augmentation of training images; `class_counts_K` and `num_images` of the training part say what is rare."""
    return Augment(amounts_of(cfg), Strength(cfg, class_counts_K, num_images), channels)
