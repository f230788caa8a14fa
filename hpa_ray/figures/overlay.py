"""Where a model looks, over what it looks at. Before: figures/colour. After: analysis.

S side of a picture in px, s of a heat map.
"""

import matplotlib
import numpy as np
from PIL import Image

HEAT, COLDEST, HOTTEST = "inferno", 0.3, 0.8
"""From purple to orange: the ends of the colours are black and nearly white, as the picture below."""
STRONGEST = 0.65
"""Opacity of the colour where the heat is 1; the picture stays visible below."""


def overlay(plane_SS: np.ndarray, heat_ss: np.ndarray) -> np.ndarray:
    """A plane and a heat map, both of 0 to 1 -> (S, S, 3) uint8: the plane in gray, coloured where it is hot.

    The heat map is made as large as the plane, with smooth transitions. Opacity grows with the heat, so that what is
    cold stays as it was.
    """
    large = Image.fromarray(np.asarray(heat_ss, np.float32)).resize(plane_SS.shape[::-1], Image.Resampling.BICUBIC)
    heat_SS = np.clip(np.asarray(large), 0, 1)
    colour_SS3 = matplotlib.colormaps[HEAT](COLDEST + (HOTTEST - COLDEST) * heat_SS)[:, :, :3]
    opacity = STRONGEST * heat_SS[:, :, None]
    return np.asarray((255 * (plane_SS[:, :, None] * (1 - opacity) + colour_SS3 * opacity)).round(), np.uint8)
