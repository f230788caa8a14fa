"""Counts of the training part -> what the losses know of the imbalance: weights and log odds of the classes."""

from collections.abc import Callable

import numpy as np

from hpa_ray.config import LossConfig

# K classes

WEIGHTINGS: dict[str, Callable[[np.ndarray, int, LossConfig], np.ndarray]] = {
    "none": lambda n, num_images, cfg: np.ones(len(n)),
    "inverse": lambda n, num_images, cfg: 1 / n,
    "sqrt_inverse": lambda n, num_images, cfg: 1 / np.sqrt(n),
    # Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019
    "effective_number": lambda n, num_images, cfg: (1 - cfg.effective_number_beta) / (1 - cfg.effective_number_beta**n),
    "gentle": lambda n, num_images, cfg: (1 - np.minimum(n, num_images - 0.5) / num_images) ** 2,
}


def class_weights(cfg: LossConfig, class_counts_K: np.ndarray, num_images: int) -> np.ndarray:
    """Weights by loss.weighting, (K,) float64 with a mean of 1 over the classes.

    None exceeds weight_clip times the smallest. A class without a training image has the largest weight of the others:
    it is the rarest, but a count of 0 tells no more than that.
    """
    counts_K = np.asarray(class_counts_K, np.float64)
    present_K = counts_K > 0
    if not present_K.any():
        return np.ones(len(counts_K))
    weights = WEIGHTINGS[cfg.weighting](counts_K[present_K], num_images, cfg)
    weights = np.minimum(weights, cfg.weight_clip * weights.min())
    weights_K = np.full(len(counts_K), weights.max())
    weights_K[present_K] = weights
    return np.asarray(weights_K / weights_K.mean())


def log_odds(class_counts_K: np.ndarray, num_images: int) -> np.ndarray:
    """log(share / (1 - share)) of each class, (K,) float64; at least half an image has a class, and half has not."""
    counts_K = np.clip(np.asarray(class_counts_K, np.float64), 0.5, num_images - 0.5)
    return np.asarray(np.log(counts_K / (num_images - counts_K)))
