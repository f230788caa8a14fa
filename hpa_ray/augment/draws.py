"""Random numbers as pure functions of (seed of the sample, stream, place in the stream). Before: stream/order.

SplitMix64 (Steele et al. 2014) in the wrapping arithmetic of int64, which CPUs and GPUs share, so every device draws
the same numbers, with nothing to carry along or to restore. Integers are exact; normal draws and what is computed from
them may differ in the last bit between devices.
"""

import math
from collections.abc import Mapping
from enum import IntEnum

import torch
from torch import Tensor, nn

# B images, N numbers per image

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as int64: the steps of SplitMix64, and its two multipliers
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


class Stream(IntEnum):
    """What is drawn. The numbers are part of the draws: an augmentation keeps its own when others come or go."""

    AFFINE = 1
    ELASTIC = 2
    GAIN = 3
    GAMMA = 4
    CONTRAST = 5
    BLUR = 6
    NOISE = 7
    NOISE_PLACE = 8
    STAIN_DROPOUT = 9
    CUTOUT = 10
    MIX = 11


Shapes = Mapping[Stream, tuple[int, ...]]
Draws = dict[Stream, Tensor]


class Step(nn.Module):
    """A step of the augmentation, which says what it draws."""

    shapes: Shapes


def mix(x: Tensor) -> Tensor:
    """One step of SplitMix64, element by element, int64 in place of uint64."""
    x = x + GOLDEN
    x = (x ^ _shifted(x, 30)) * FIRST
    x = (x ^ _shifted(x, 27)) * SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # >> alone would copy the sign


def uniform(seeds_B: Tensor, stream: int, shape: tuple[int, ...]) -> Tensor:
    """(B,) int64 seeds -> (B, *shape) float32 in [0, 1), in steps of 2 ** -24."""
    keys_N, places_N = (column.to(seeds_B.device) for column in _columns(stream, shape))
    return _draw(seeds_B, keys_N, places_N).view(-1, *shape)


def normal(seeds_B: Tensor, stream: int, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) float32 of mean 0 and variance 1."""
    return to_normal(uniform(seeds_B, stream, (2, *shape)))


def to_normal(uniform_B2: Tensor) -> Tensor:
    """(B, 2, ...) uniform draws -> (B, ...) normal ones (Box and Muller 1958)."""
    radius, turn = uniform_B2.unbind(1)
    return (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * turn)


class DrawTable(nn.Module):
    """All that `uniform` would draw for a batch, of all streams at once: two dozen kernels instead of as many each."""

    keys_N: Tensor
    places_N: Tensor

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        columns = [_columns(stream, shape) for stream, shape in self.shapes.items()]
        self.register_buffer("keys_N", torch.cat([keys for keys, _ in columns]), persistent=False)
        self.register_buffer("places_N", torch.cat([places for _, places in columns]), persistent=False)

    def forward(self, seeds_B: Tensor) -> Draws:
        drawn_BN = _draw(seeds_B, self.keys_N, self.places_N)
        parts = torch.split(drawn_BN, [math.prod(shape) for shape in self.shapes.values()], dim=1)
        return {stream: part.view(-1, *self.shapes[stream]) for stream, part in zip(self.shapes, parts, strict=True)}


def _columns(stream: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The key of the stream and the places in it, (N,) int64 each."""
    places_N = torch.arange(math.prod(shape)) * GOLDEN
    return mix(torch.tensor([int(stream)])).expand(len(places_N)), places_N


def _draw(seeds_B: Tensor, keys_N: Tensor, places_N: Tensor) -> Tensor:
    bits_BN = mix(mix(seeds_B[:, None] ^ keys_N) + places_N)
    return _shifted(bits_BN, 40).float() * 2.0**-24
