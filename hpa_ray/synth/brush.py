"""Drawing on small float planes: textures, dots, lines, blur. Before: nothing. After: synth/cells, synth/patterns."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]
"""(H, W) float32 brightness, mask or distance over a patch."""

Points = NDArray[np.float32]
"""(N, 2) float32 positions, x then y, in pixels."""

BANK_PX = 512
# Random textures come from a fixed bank: an inverse FFT per cell would cost more than all the rest of its drawing.
WAVELENGTHS_PX = {"fine": 5.0, "medium": 9.0, "coarse": 24.0}


@lru_cache
def _bank(scale: str) -> Plane:
    """(512, 512) periodic noise of one wavelength, mean 0 and standard deviation 1."""
    frequency = 1.0 / WAVELENGTHS_PX[scale]
    fy = np.fft.fftfreq(BANK_PX)[:, None]
    fx = np.fft.rfftfreq(BANK_PX)[None, :]
    ring = np.exp(-0.5 * ((np.hypot(fy, fx) - frequency) / (0.3 * frequency)) ** 2)
    white = np.random.default_rng(sum(scale.encode())).standard_normal((BANK_PX, BANK_PX))
    noise = np.fft.irfft2(np.fft.rfft2(white) * ring, s=(BANK_PX, BANK_PX))
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


def texture(scale: str, shape: tuple[int, int], rng: np.random.Generator) -> Plane:
    """A random window, turned at random, of the noise named `scale`: fine, medium or coarse."""
    bank = _bank(scale)
    if rng.random() < 0.5:
        bank = bank.T
    bank = bank[:: int(rng.choice((-1, 1))), :: int(rng.choice((-1, 1)))]
    top, left = (int(rng.integers(0, BANK_PX - side)) for side in shape)
    return bank[top : top + shape[0], left : left + shape[1]]


def as_plane(brightness: NDArray[Any]) -> Plane:
    """The same values as float32, whatever the arithmetic before made of them."""
    return np.asarray(brightness, dtype=np.float32)


def blur(plane: Plane, passes: int) -> Plane:
    """Binomial blur [1 2 1] / 4 along both axes; n passes have a standard deviation of sqrt(n / 2) px."""
    for _ in range(passes):
        rows = 0.5 * plane
        rows[1:] += 0.25 * plane[:-1]
        rows[:-1] += 0.25 * plane[1:]
        plane = 0.5 * rows
        plane[:, 1:] += 0.25 * rows[:, :-1]
        plane[:, :-1] += 0.25 * rows[:, 1:]
    return plane


def splat(points: Points, weights: NDArray[np.float32] | float, shape: tuple[int, int]) -> Plane:
    """Sum of point lights, each shared bilinearly by its four pixels; points outside the patch are lost."""
    height, width = shape
    corner = np.floor(points)
    fx, fy = (points - corner).T
    x, y = corner.astype(np.int64).T
    inside = (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)
    x, y, fx, fy = x[inside], y[inside], fx[inside], fy[inside]
    w = np.broadcast_to(np.asarray(weights, dtype=np.float32), inside.shape)[inside]
    flat = y * width + x
    index = np.concatenate((flat, flat + 1, flat + width, flat + width + 1))
    share = np.concatenate((w * (1 - fx) * (1 - fy), w * fx * (1 - fy), w * (1 - fx) * fy, w * fx * fy))
    return np.bincount(index, share, minlength=height * width).astype(np.float32).reshape(shape)


def discs(centers: Points, radii: NDArray[np.float32], shape: tuple[int, int], *, hollow: bool = False) -> Plane:
    """Soft-edged discs (or rings 2 px thick) of brightness 1; overlaps stay at 1."""
    height, width = shape
    if len(centers) == 0:
        return np.zeros(shape, np.float32)
    reach = int(np.ceil(float(radii.max()))) + 2
    step = np.arange(-reach, reach + 1)
    middle = np.rint(centers).astype(np.int64)
    x = middle[:, 0, None, None] + step[None, None, :]
    y = middle[:, 1, None, None] + step[None, :, None]
    distance = np.hypot(x - centers[:, 0, None, None], y - centers[:, 1, None, None])
    depth = radii[:, None, None] - distance
    light = np.clip(1.3 - np.abs(depth), 0, 1) if hollow else np.clip(depth + 0.5, 0, 1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    total = np.bincount((y * width + x)[inside], light[inside], minlength=height * width)
    return np.minimum(total, 1).astype(np.float32).reshape(shape)


def scatter(density: Plane, count: int, rng: np.random.Generator) -> Points:
    """`count` positions drawn in proportion to `density`; none where it is zero everywhere."""
    heights = np.cumsum(density, dtype=np.float64)
    if heights[-1] <= 0:
        return np.zeros((0, 2), np.float32)
    flat = np.minimum(np.searchsorted(heights, rng.random(count) * heights[-1]), density.size - 1)
    y, x = np.divmod(flat, density.shape[1])
    return (np.stack((x, y), 1) + rng.uniform(-0.5, 0.5, (count, 2))).astype(np.float32)


def soft_step(distance_px: Plane, width_px: float = 2.0) -> Plane:
    """0 outside, 1 inside, linear over `width_px` around distance 0."""
    return as_plane(np.clip(distance_px / np.float32(width_px) + np.float32(0.5), 0, 1))


def line_on(distance_px: Plane, width_px: float) -> Plane:
    """Brightness of a soft line that follows distance 0; half of it is left at `width_px` / 2."""
    return np.exp(distance_px * distance_px * np.float32(-2.77 / width_px**2))
