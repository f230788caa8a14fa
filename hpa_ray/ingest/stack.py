"""Decoded planes of one image: do they fit together, and to one size. Before: ingest/decode. After: ingest/reader."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from hpa_ray.ingest.decode import DecodeError

RESIZE_RULE = "area"
"""Down: the mean of the pixels whose centres lie in each new pixel, so every old pixel counts once. Up: bilinear.

Block means where the sizes divide, to the nearest gray level but for means that are all but half way between two.
"""


def check_shapes(shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises DecodeError if planes of these (H, W) are not square and of one size."""
    if len(set(shapes)) > 1:
        raise DecodeError(f"planes of different sizes: {', '.join(f'{w} x {h} px' for h, w in sorted(set(shapes)))}")
    height, width = shapes[0]
    if height != width:
        raise DecodeError(f"{width} x {height} px, expected a square image")


def resize_plane(plane: np.ndarray, image_size: int) -> np.ndarray:
    """(H, H) uint8 -> (S, S) uint8 by `RESIZE_RULE`."""
    side = plane.shape[0]
    if side == image_size:
        return plane
    image = Image.fromarray(plane)
    if side % image_size == 0:
        return np.asarray(image.reduce(side // image_size))
    rule = Image.Resampling.BOX if side > image_size else Image.Resampling.BILINEAR
    return np.asarray(image.resize((image_size, image_size), rule))
