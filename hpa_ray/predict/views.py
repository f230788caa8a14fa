"""The eight symmetries of the square, for test-time augmentation. Before: stream. After: infer."""

import numpy as np
from torch import Tensor

NUM_VIEWS = 8


def view(images_BCSS: Tensor, number: int) -> Tensor:
    """(B, C, S, S) of any dtype -> the same images as seen in one of NUM_VIEWS ways; number 0 is as they are."""
    if number & 1:
        images_BCSS = images_BCSS.transpose(2, 3)
    sides = [side for bit, side in ((2, 2), (4, 3)) if number & bit]
    return images_BCSS.flip(sides) if sides else images_BCSS


def pooled(probability_VBK: np.ndarray, pool: str) -> np.ndarray:
    """(V, B, K) probabilities of the views of images -> (B, K) by `mean` or `max`; a single view stays as it is."""
    if len(probability_VBK) == 1:
        return np.asarray(probability_VBK[0])
    return np.asarray(probability_VBK.max(axis=0) if pool == "max" else probability_VBK.mean(axis=0))
