"""Gray planes -> the colours in which the atlas shows them, for looking only: models get the planes as they are.

Before: channels. After: figures/pixels, and thumbnails on pages.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from hpa_ray.channels import STAINS

# B images, C stains, S side in px

WHITE_PERCENTILE = 99.7
LEAST_WHITE = 32
"""Gray level that is shown as white at the least: a plane without signal stays dark, its noise is not blown up."""
CONTRAST_RULE = (
    f"For display only, each plane of each image is scaled so that its {WHITE_PERCENTILE}th percentile "
    f"(at least {LEAST_WHITE} of 255) is full brightness; the merge adds half of yellow to red and to green."
)
COLOURS = {"red": (1.0, 0.1, 0.1), "green": (0.0, 1.0, 0.0), "blue": (0.3, 0.45, 1.0), "yellow": (1.0, 1.0, 0.0)}
"""By itself a stain is lighter than in the merge where the pure colour is too dark to see what is in it."""
MERGE = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "yellow": (0.5, 0.5, 0.0)}


def stretch(image_CSS: np.ndarray) -> np.ndarray:
    """(C, S, S) uint8 -> 0 to 1, each plane by itself, brighter as CONTRAST_RULE says."""
    white = np.maximum(np.percentile(image_CSS, WHITE_PERCENTILE, axis=(1, 2)), LEAST_WHITE)
    return np.asarray(np.clip(image_CSS / white[:, None, None], 0, 1))


def pseudo_colour(plane_SS: np.ndarray, stain: str) -> np.ndarray:
    """A plane of 0 to 1 -> (S, S, 3) uint8 in the stain's colour."""
    return np.asarray((plane_SS[:, :, None] * np.array(COLOURS[stain]) * 255).round(), np.uint8)


def merge_rgb(image_CSS: np.ndarray, channels: Sequence[str] = STAINS) -> np.ndarray:
    """(C, S, S) uint8 -> one (S, S, 3) uint8 picture of all its stains, brighter as CONTRAST_RULE says."""
    weights = np.array([MERGE[stain] for stain in channels])
    mixed = np.einsum("chw,cr->hwr", stretch(image_CSS), weights)
    return np.asarray((np.clip(mixed, 0, 1) * 255).round(), np.uint8)


def thumbnail(image_CSS: np.ndarray, channels: Sequence[str] = STAINS, *, side: int = 256) -> bytes:
    """The merged picture as a JPEG of at most `side` px, for a page."""
    picture = Image.fromarray(merge_rgb(image_CSS, channels))
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
