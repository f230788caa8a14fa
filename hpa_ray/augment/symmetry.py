"""Flips and quarter turns, as moves of pixels or as a matrix. Before: stream. After: geometry, pipeline."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

# B images, C stains, S side in px

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Moves(NamedTuple):
    """What is done to each image, in this order; (B,) bool."""

    transposed: Tensor
    upside_down: Tensor
    mirrored: Tensor


class SquareSymmetry(nn.Module):
    """Flips and quarter turns: with both, a uniform draw from the eight symmetries of the square (the group D4).

    A field of cells has no up and no left, so every result is as likely an image as its original. Identity in eval
    mode. Moves pixels without changing them, so it works on uint8.
    """

    def __init__(self, *, flip: bool, quarter_turn: bool) -> None:
        super().__init__()
        self.flip, self.quarter_turn = flip, quarter_turn

    def moves(self, seeds_B: Tensor) -> Moves:
        """From the three lowest bits of the seeds."""
        transposed = (seeds_B & 1).bool() & self.quarter_turn
        upside_down = (seeds_B & 2).bool() & self.quarter_turn
        mirrored = (seeds_B & 4).bool() & self.flip
        if self.quarter_turn:  # a quarter turn is a transposition and a mirroring, a half turn both mirrorings
            mirrored = mirrored ^ transposed ^ upside_down
        return Moves(transposed, upside_down, mirrored)

    def matrix(self, seeds_B: Tensor) -> Tensor:
        """(B, 2, 2): from a place (x, y) in the result, seen from the centre, to the place its pixel comes from."""
        moves = self.moves(seeds_B)
        right, down = 1 - 2 * moves.mirrored.float(), 1 - 2 * moves.upside_down.float()
        straight = torch.diag_embed(torch.stack([right, down], dim=1))
        return torch.where(moves.transposed[:, None, None], straight.flip(1), straight)

    def forward(self, images_BCSS: Tensor, seeds_B: Tensor) -> Tensor:
        """(B, C, S, S) of any dtype and (B,) int64 seeds -> images of the same shape and dtype."""
        if not self.training or not (self.flip or self.quarter_turn):
            return images_BCSS
        moves = self.moves(seeds_B)
        words = images_BCSS.view(WORDS[images_BCSS.element_size()])
        if self.quarter_turn:
            words = _chosen(moves.transposed, words.transpose(2, 3), words)
            words = _chosen(moves.upside_down, words.flip(2), words)
        return _chosen(moves.mirrored, words.flip(3), words).view(images_BCSS.dtype)


def _chosen(where_B: Tensor, changed: Tensor, same: Tensor) -> Tensor:
    """torch.where for whole images, bit by bit: half the time on a CPU, which has no fast path for bytes there."""
    mask = -where_B.to(same.dtype).view(-1, 1, 1, 1)
    return torch.bitwise_xor(same, changed).bitwise_and_(mask).bitwise_xor_(same)
