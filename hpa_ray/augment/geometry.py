"""Everything that moves pixels between grid points: one resampling for all of it. Before: draws, symmetry.

After: pipeline.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from hpa_ray.augment.draws import Draws, Shapes, Step, Stream, to_normal
from hpa_ray.augment.presets import Amounts
from hpa_ray.augment.symmetry import SquareSymmetry

# B images, C stains, S side in px, G side of the grid of displacements

GRID = 8
MOST_CUT_OFF = 0.95
"""Share of the area: with a strength above 1 a crop could otherwise leave nothing."""
MOST_SHEAR_DEG = 75.0


class Warp(Step):
    """Rotation, zoom, shift, shear, random resized crop and elastic distortion, with the symmetries, in one sampling.

    Bilinear, with reflected borders. Places are counted from the centre, -1 to 1 over the image, and everything is
    written as the way back, from a place in the result to that in the image. With nothing drawn, and a side that is a
    power of two, the places are exact and so are the pixels; otherwise they are off by less than 1e-4 px.
    """

    def __init__(self, amounts: Amounts, symmetry: SquareSymmetry) -> None:
        super().__init__()
        self.amounts, self.symmetry = amounts, symmetry
        self.shapes: Shapes = {Stream.AFFINE: (8,)}
        if amounts.elastic:
            self.shapes = {**self.shapes, Stream.ELASTIC: (2, 2, GRID, GRID)}

    def forward(self, images_BCSS: Tensor, draws: Draws, strength_B: Tensor, seeds_B: Tensor) -> Tensor:
        """float32 images -> new ones."""
        turn_B22 = self.symmetry.matrix(seeds_B)
        matrix_B22, offset_B2 = self.affine(draws[Stream.AFFINE], strength_B)
        side = images_BCSS.shape[-1]
        centres_S = pixel_centres(side, images_BCSS.device)
        across_B2, down_B2 = product(turn_B22, matrix_B22).unbind(2)
        offset_B2 = product(turn_B22, offset_B2[:, :, None])[:, :, 0]
        across_BS2 = across_B2[:, None] * centres_S[:, None]
        down_BS2 = down_B2[:, None] * centres_S[:, None] + offset_B2[:, None]
        grid_BSS2 = down_BS2[:, :, None] + across_BS2[:, None]
        if self.amounts.elastic:
            steps_B2GG = to_normal(draws[Stream.ELASTIC]) * (2 * self.amounts.elastic * strength_B).view(-1, 1, 1, 1)
            steps_BGG2 = product(turn_B22, steps_B2GG.flatten(2)).mT.reshape(-1, GRID, GRID, 2)
            grid_BSS2.add_(smooth(steps_BGG2, side))
        return functional.grid_sample(images_BCSS, grid_BSS2, padding_mode="reflection", align_corners=False)

    def affine(self, uniform_B8: Tensor, strength_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2, 2) and (B, 2): from a place in the result to that in the image, without symmetries."""
        amounts = self.amounts
        signed_B8 = 2 * uniform_B8 - 1
        angle = signed_B8[:, 0] * strength_B * math.radians(amounts.rotate_deg)
        zoom = (signed_B8[:, 1] * (strength_B * amounts.scale).log1p()).exp()
        shear = (signed_B8[:, 2] * (strength_B * amounts.shear_deg).clamp(max=MOST_SHEAR_DEG).deg2rad()).tan()
        shift_B2 = signed_B8[:, 3:5] * (strength_B * 2 * amounts.shift)[:, None]
        window = (1 - uniform_B8[:, 5] * (strength_B * amounts.crop).clamp(max=MOST_CUT_OFF)).sqrt()
        window_at_B2 = signed_B8[:, 6:] * (1 - window)[:, None]
        sine, cosine = angle.sin(), angle.cos()
        # the image is sheared along x, rotated and zoomed about its centre, then shifted, and the window cut from it
        rows = [cosine + shear * sine, sine - shear * cosine, -sine, cosine]
        back_B22 = torch.stack([row / zoom for row in rows], dim=1).view(-1, 2, 2)
        offset_B2 = product(back_B22, (window_at_B2 - shift_B2)[:, :, None])[:, :, 0]
        return back_B22 * window[:, None, None], offset_B2


def pixel_centres(side: int, device: torch.device) -> Tensor:
    """(S,) from -1 to 1, exact where the side is a power of two."""
    return torch.arange(1 - side, side, 2, device=device) / side


def product(left_Bij: Tensor, right_Bjk: Tensor) -> Tensor:
    """Of small matrices; in full float32 also where those of a GPU are told to multiply in TF32."""
    return (left_Bij[:, :, :, None] * right_Bjk[:, None]).sum(2)


def smooth(values_BGG2: Tensor, side: int) -> Tensor:
    """Values at a G x G grid -> (B, S, S, 2), smooth in between: bicubic, by two matrix products."""
    num_images, num_knots = values_BGG2.shape[:2]
    knots = torch.eye(num_knots, device=values_BGG2.device)[None, None]
    weights_SG = functional.interpolate(knots, (side, num_knots), mode="bicubic", align_corners=True)[0, 0]
    across_BGS2 = weights_SG @ values_BGG2
    return (weights_SG @ across_BGS2.view(num_images, num_knots, -1)).view(num_images, side, side, 2)
