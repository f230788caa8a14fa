"""Pixels of an image -> 64 bits per stain that survive re-encoding and resizing. Before: ingest, shards. After: pairs.

The hash of a plane holds the signs of its 64 lowest cosine coefficients but the mean, the "pHash" of Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), with the sign in place of the comparison
with the median (for a photograph's coefficients the median is all but zero, and a sign does not hang on the others).
Signs do not change with brightness. The simpler difference hash (neighbours of a 9 x 8 thumbnail) was tried and
dropped: the background of microscopy is flat, so most of its bits compare noise. See benchmarks/duplicates.py.
"""

import functools

import numpy as np

from hpa_ray.errors import InputError

# B images, C stains, S side in px, F frequencies along a side

NUM_BITS = 64
MIN_SIDE_PX = 32
"""The finest wave has four periods along a side; below this size its sampling would count for more than the image."""
MIN_CONTRAST = 1.0
"""Gray levels (standard deviation of the plane as its 64 coefficients draw it) below which a plane says nothing.

Measured on real and synthetic planes that were darkened step by step: noise of 5 gray levels changes 8 and more bits of
every twentieth plane below it, 6 to 8 between it and 1.5, and 3 to 5 above 2.
"""
ALMOST_ZERO = 1e-3
"""Gray levels up to which a coefficient counts as not positive: far above what the order of a sum can change."""
MIX = 27
"""Coefficient k is bit 27 k mod 64, so that any run of bits, as the search uses them, has coarse and fine ones."""


def hash_images(pixels_BCSS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, C, S, S) uint8 -> (B, C) uint64 hashes and (B, C) bool: whether the plane has anything to tell.

    The hash of a plane that has not is 0. Raises InputError below MIN_SIDE_PX.
    """
    side = pixels_BCSS.shape[-1]
    if side < MIN_SIDE_PX:
        raise InputError(f"images of {side} px are too small to be compared: give files, or shards of {MIN_SIDE_PX} px")
    waves_FS, picked, bits = _waves(side)
    hashes = np.zeros(pixels_BCSS.shape[:2], np.uint64)
    informative = np.zeros(pixels_BCSS.shape[:2], bool)
    for number, image_CSS in enumerate(pixels_BCSS):  # one at a time: as floats they take four times the room
        spectrum_CFF = waves_FS @ image_CSS.astype(np.float32) @ waves_FS.T
        coefficients = spectrum_CFF.reshape(len(image_CSS), -1)[:, picked]
        informative[number] = np.sqrt(np.square(coefficients).sum(axis=1)) >= MIN_CONTRAST
        hashes[number] = np.where(coefficients > ALMOST_ZERO, bits, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    hashes[~informative] = 0
    return hashes, informative


@functools.lru_cache(maxsize=8)
def _waves(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines (F, S) float32, places of the chosen coefficients among the F x F, and the value of the bit of each.

    Scaled so that the squares of all coefficients but the mean sum up to the variance of the plane. The 64 are those
    of the longest waves in any direction, a quarter circle.
    """
    frequency = np.arange(9)
    waves = np.sqrt(2) / side * np.cos(np.pi / side * frequency[:, None] * (np.arange(side) + 0.5))
    waves[0] /= np.sqrt(2)
    down, across = np.divmod(np.arange(frequency.size**2), frequency.size)
    picked = np.lexsort((down, down**2 + across**2))[1 : NUM_BITS + 1]
    bits = np.left_shift(np.uint64(1), (np.arange(NUM_BITS) * MIX % NUM_BITS).astype(np.uint64))
    return waves.astype(np.float32), picked, bits
