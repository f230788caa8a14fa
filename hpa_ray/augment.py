"""Batched augmentation on the device, a draw per sample, on uint8. Before: stream. After: model.

Draws are a pure function of a sample's seed, so they do not depend on the batch, the worker or the device it is in.
"""

import torch
from torch import Tensor, nn

# B images, C stains, S side in px


class SquareSymmetry(nn.Module):
    """Flips and quarter turns: with both, a uniform draw from the eight symmetries of the square (the group D4).

    A field of cells has no up and no left, so every result is as likely an image as its original. Identity in eval
    mode. Moves pixels without changing them, so it works on uint8.
    """

    def __init__(self, *, flip: bool, quarter_turn: bool) -> None:
        super().__init__()
        self.flip, self.quarter_turn = flip, quarter_turn

    def forward(self, images_BCSS: Tensor, seeds_B: Tensor) -> Tensor:
        """(B, C, S, S) of any dtype and (B,) int64 seeds -> images of the same shape and dtype."""
        if not self.training or not (self.flip or self.quarter_turn):
            return images_BCSS
        transposed = (seeds_B & 1).bool() & self.quarter_turn
        upside_down = (seeds_B & 2).bool() & self.quarter_turn
        mirrored = (seeds_B & 4).bool() & self.flip
        if self.quarter_turn:  # a quarter turn is a transposition and a mirroring, a half turn both mirrorings
            mirrored = mirrored ^ transposed ^ upside_down

        def choose(where_B: Tensor, changed: Tensor, same: Tensor) -> Tensor:
            return torch.where(where_B.view(-1, 1, 1, 1), changed, same)

        images = choose(transposed, images_BCSS.transpose(2, 3), images_BCSS)
        images = choose(upside_down, images.flip(2), images)
        return choose(mirrored, images.flip(3), images)
