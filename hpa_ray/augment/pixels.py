"""What is done to intensities, on float32 images of 0 to 255 that may be changed in place. After: pipeline."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hpa_ray.augment.draws import Draws, Shapes, Step, Stream
from hpa_ray.augment.presets import Amounts

# B images, C stains, S side in px

MOST_BLUR_PX = 16.0
"""Standard deviation, whatever the strength: what is beyond shows nothing of a cell."""
NOISE_VALUES = 2**18
NOISE_SEED = 20181010
PROTEIN = "green"


class Intensity(Step):
    """Gamma, gain and contrast of every stain by itself, as detectors and exposures differ by stain."""

    def __init__(self, amounts: Amounts, num_stains: int) -> None:
        super().__init__()
        self.amounts = amounts
        asked = {Stream.GAIN: amounts.gain, Stream.GAMMA: amounts.gamma, Stream.CONTRAST: amounts.contrast}
        self.shapes: Shapes = {stream: (num_stains,) for stream, amount in asked.items() if amount}

    def forward(self, images_BCSS: Tensor, draws: Draws, strength_B: Tensor) -> Tensor:
        strength_B1 = strength_B[:, None]
        factor_BC = torch.ones_like(strength_B1)
        if Stream.GAMMA in self.shapes:
            exponent_BC = _signed(draws[Stream.GAMMA], strength_B1 * self.amounts.gamma).exp()
            images_BCSS.mul_(1 / 255).pow_(exponent_BC[:, :, None, None])
            factor_BC = factor_BC * 255
        if Stream.GAIN in self.shapes:
            factor_BC = factor_BC * _signed(draws[Stream.GAIN], strength_B1 * self.amounts.gain).exp()
        if Stream.CONTRAST not in self.shapes:
            return images_BCSS.mul_(factor_BC[:, :, None, None])
        stretch_BC = 1 + _signed(draws[Stream.CONTRAST], (strength_B1 * self.amounts.contrast).clamp(max=1))
        offset_BC = images_BCSS.mean((2, 3)) * factor_BC * (1 - stretch_BC)
        images_BCSS.mul_((factor_BC * stretch_BC)[:, :, None, None])  # addcmul would do both, in five times the time
        return images_BCSS.add_(offset_BC[:, :, None, None])


class Blur(Step):
    """Gaussian blur of half the images, by a kernel of the radius that the strongest needs, first down, then across.

    A sum of shifted images: the same bits in any batch, and no slower than a convolution at these radii.
    """

    def __init__(self, amounts: Amounts, most_strength: float) -> None:
        super().__init__()
        self.amount = amounts.blur
        self.radius = math.ceil(3 * min(amounts.blur * most_strength, MOST_BLUR_PX))
        self.shapes: Shapes = {Stream.BLUR: ()}

    def forward(self, images_BCSS: Tensor, draws: Draws, strength_B: Tensor) -> Tensor:
        side = images_BCSS.shape[-1]
        radius = min(self.radius, side - 1)
        if not radius:
            return images_BCSS
        most_B = (strength_B * self.amount).clamp(max=MOST_BLUR_PX)
        sigma_B = most_B * (2 * draws[Stream.BLUR] - 1).relu()  # the lower half of the draws: none
        distances = torch.arange(radius + 1, device=sigma_B.device)
        weights_BR = (-(distances**2) / (2 * sigma_B.square().clamp_min(1e-6))[:, None]).exp()
        weights_BR = weights_BR / (2 * weights_BR.sum(1, keepdim=True) - 1)
        weights = weights_BR.t().reshape(radius + 1, -1, 1, 1, 1)
        padded = functional.pad(images_BCSS, (radius,) * 4, mode="reflect")
        down = padded.narrow(2, radius, side) * weights[0]
        for distance in range(1, radius + 1):
            down.addcmul_(padded.narrow(2, radius - distance, side), weights[distance])
            down.addcmul_(padded.narrow(2, radius + distance, side), weights[distance])
        across = torch.mul(down.narrow(3, radius, side), weights[0], out=images_BCSS)
        for distance in range(1, radius + 1):
            across.addcmul_(down.narrow(3, radius - distance, side), weights[distance])
            across.addcmul_(down.narrow(3, radius + distance, side), weights[distance])
        return across


class Noise(Step):
    """Gaussian noise from a fixed strip of it: every row of an image reads the strip at a place of its own.

    Places and sign are drawn per image and stain; a place per pixel would cost more than all else together.
    """

    strip: Tensor

    def __init__(self, amounts: Amounts, num_stains: int) -> None:
        super().__init__()
        self.amount = amounts.noise
        generator = torch.Generator().manual_seed(NOISE_SEED)
        self.register_buffer("strip", torch.randn(NOISE_VALUES, generator=generator), persistent=False)
        self.shapes: Shapes = {Stream.NOISE: (), Stream.NOISE_PLACE: (num_stains, 3)}

    def forward(self, images_BCSS: Tensor, draws: Draws, strength_B: Tensor) -> Tensor:
        side = images_BCSS.shape[-1]
        windows = self.strip.unfold(0, side, 1)
        start, step, sign = draws[Stream.NOISE_PLACE].unbind(2)
        start_BC, step_BC = (start * len(windows)).long(), side + (step * side).long()
        rows_BCS = (start_BC[:, :, None] + step_BC[:, :, None] * torch.arange(side, device=start.device)) % len(windows)
        noise_BCSS = windows.index_select(0, rows_BCS.view(-1)).view(images_BCSS.shape)
        sigma_B1 = (255 * self.amount * strength_B * draws[Stream.NOISE])[:, None]
        return images_BCSS.addcmul_(noise_BCSS, torch.where(sign < 0.5, sigma_B1, -sigma_B1)[:, :, None, None])


class Blackout(Step):
    """Stain dropout, never of the protein itself, and cutout (DeVries and Taylor 2017)."""

    share_C: Tensor

    def __init__(self, amounts: Amounts, channels: Sequence[str]) -> None:
        super().__init__()
        shares = [0.0 if stain == PROTEIN else amounts.stain_dropout for stain in channels]
        self.register_buffer("share_C", torch.tensor(shares), persistent=False)
        self.cutout = amounts.cutout
        self.shapes: Shapes = {
            **({Stream.STAIN_DROPOUT: (len(channels),)} if any(shares) else {}),
            **({Stream.CUTOUT: (4,)} if amounts.cutout else {}),
        }

    def forward(self, images_BCSS: Tensor, draws: Draws, strength_B: Tensor) -> Tensor:
        if Stream.STAIN_DROPOUT in self.shapes:
            kept_BC = draws[Stream.STAIN_DROPOUT] >= strength_B[:, None] * self.share_C
            images_BCSS.mul_(kept_BC[:, :, None, None].float())
        if Stream.CUTOUT in self.shapes:
            images_BCSS.mul_(1 - self._square(draws[Stream.CUTOUT], strength_B, images_BCSS.shape[-1])[:, None])
        return images_BCSS

    def _square(self, uniform_B4: Tensor, strength_B: Tensor, side: int) -> Tensor:
        """(B, S, S): 1 in the square that is cut out, if any, which lies within the image."""
        whether, area, top, left = uniform_B4[:, :, None].unbind(1)
        cut = (whether < (strength_B * self.cutout)[:, None]).float()
        length = (side / 2 * area.sqrt()).round()
        return _within(top, length, side)[:, :, None] * (cut * _within(left, length, side))[:, None]


def _within(uniform_B1: Tensor, length_B1: Tensor, side: int) -> Tensor:
    """(B, S): 1 in a stretch of the side, with all places of it equally likely."""
    pixels_S = torch.arange(side, device=uniform_B1.device)
    start = (uniform_B1 * (side + 1 - length_B1)).floor()
    return ((pixels_S >= start) & (pixels_S < start + length_B1)).float()


def _signed(uniform: Tensor, amount: Tensor) -> Tensor:
    """Draws from -amount to amount."""
    return (2 * uniform - 1) * amount
