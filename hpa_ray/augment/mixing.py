"""MixUp and CutMix for multi-hot targets. Before: pixels. After: pipeline.

A partner is the sample before it in the batch, whose order is a seeded shuffle. So, unlike all other augmentation,
what becomes of a sample depends on the samples it shares a batch with; a sample alone in its batch stays as it is.
"""

import numpy as np
import torch
from torch import Tensor

from hpa_ray.augment.draws import Draws, Shapes, Step, Stream
from hpa_ray.augment.presets import Amounts

# B images, C stains, S side in px, K classes

QUANTILES = 2**14
BETA_SEED = 0


class Mixing(Step):
    """MixUp (Zhang et al. 2018), CutMix (Yun et al. 2019), or with both one of them at random, of some of the images.

    Strength scales how many images are mixed, not alpha: a larger alpha is not more of the same.
    """

    mixup_Q: Tensor
    cutmix_Q: Tensor

    def __init__(self, amounts: Amounts) -> None:
        super().__init__()
        self.probability = amounts.mix_probability
        self.mixup_share = amounts.mixup and (0.5 if amounts.cutmix else 1.0)
        self.cutmix = bool(amounts.cutmix)
        for name, alpha in (("mixup_Q", amounts.mixup), ("cutmix_Q", amounts.cutmix)):
            self.register_buffer(name, beta_quantiles(alpha), persistent=False)
        self.shapes: Shapes = {Stream.MIX: (5,)}

    def forward(
        self, images_BCSS: Tensor, targets_BK: Tensor, draws: Draws, strength_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        whether, which, level, top, left = draws[Stream.MIX].unbind(1)
        mixed = (whether < strength_B * self.probability).float()
        mixup = mixed * (which < self.mixup_share).float()
        lam = self.mixup_Q[(level * QUANTILES).long()]
        share_B = mixup * torch.minimum(lam, 1 - lam)  # of the partner: the image keeps the larger part
        weight = share_B.view(-1, 1, 1, 1)
        if self.cutmix:
            side = images_BCSS.shape[-1]
            length = (side * (1 - self.cutmix_Q[(level * QUANTILES).long()]).sqrt()).round()
            rows_BS, columns_BS = _around(top, length, side), _around(left, length, side)
            rows_BS = rows_BS * (mixed - mixup)[:, None]
            weight = weight + rows_BS[:, None, :, None] * columns_BS[:, None, None, :]
            share_B = share_B + rows_BS.sum(1) * columns_BS.sum(1) / side**2  # what lies within the image
        # in two pieces instead of by roll(): a copy of the batch less
        images = torch.empty_like(images_BCSS)
        torch.lerp(images_BCSS[1:], images_BCSS[:-1], weight[1:], out=images[1:])
        torch.lerp(images_BCSS[:1], images_BCSS[-1:], weight[:1], out=images[:1])
        return images, torch.lerp(targets_BK, targets_BK.roll(1, 0), share_B[:, None])


def beta_quantiles(alpha: float) -> Tensor:
    """Sorted draws of Beta(alpha, alpha): a uniform draw of a place among them is a draw of the distribution."""
    if not alpha:
        return torch.ones(QUANTILES)
    drawn = np.sort(np.random.default_rng(BETA_SEED).beta(alpha, alpha, QUANTILES))
    return torch.from_numpy(drawn.astype(np.float32))


def _around(uniform_B: Tensor, length_B: Tensor, side: int) -> Tensor:
    """(B, S): 1 in a stretch about a pixel drawn from the side, cut off at its ends."""
    pixels_S = torch.arange(side, device=uniform_B.device)
    start = ((uniform_B * side).floor() - (length_B / 2).floor())[:, None]
    return ((pixels_S >= start) & (pixels_S < start + length_B[:, None])).float()
