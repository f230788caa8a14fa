"""Probabilities and truth -> how far probabilities can be taken at their word. Before: arrays. After: scores, report.

Every (image, class) decision is one probability of a yes. Names end in their axes: N image, K class, B bin.
"""

from typing import NamedTuple

import numpy as np

from hpa_ray.metrics.arrays import as_pair, ratio

BINS = 15
"""As in Guo et al. 2017."""


class Reliability(NamedTuple):
    """The points of a reliability diagram, all decisions pooled, and what they amount to."""

    edges: np.ndarray
    """(B + 1,) float64; bin b holds edges[b] < probability <= edges[b + 1], the first also 0 itself."""
    confidence: np.ndarray
    """(B,) float64, mean probability; NaN in an empty bin."""
    observed: np.ndarray
    """(B,) float64, share of the decisions where the class is there; NaN in an empty bin."""
    num_decisions: np.ndarray
    """(B,) int64"""
    ece: float
    """Expected calibration error: the mean over all decisions of |observed - confidence| of their bin."""
    ece_classes: float
    """The same of every class by itself, averaged over all classes."""


def reliability(
    probabilities: np.ndarray, targets: np.ndarray, *, bins: int = BINS, adaptive: bool = False
) -> Reliability:
    """Reliability of (N, K) probabilities in [0, 1] against (N, K) targets of 0 and 1.

    ECE by bins is from Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning"
    (AAAI 2015), in the form of Guo et al., "On calibration of modern neural networks" (ICML 2017); there of the
    probability of one chosen class per image, here of all decisions, as several classes of an image may be true. Class
    by class and with bins of equal mass it is from Nixon et al., "Measuring calibration in deep learning" (CVPR
    workshops 2019).

    adaptive: bins of about equal numbers of decisions (for ece_classes: of the class) instead of equal width. Of 28
    classes an image has one or two: of the bins of equal width the first holds nearly all probabilities, and the pooled
    `ece` says little of the others. Equal probabilities share a bin, so there may be fewer bins than asked for.
    Raises ValueError as `score` does, and for less than one bin.
    """
    probability_NK, target_NK = as_pair(probabilities, targets)
    if bins < 1:
        raise ValueError(f"{bins=} holds no probability: use 1 or more")
    flat, truth = probability_NK.ravel(), target_NK.ravel()
    edges = quantile_edges(flat, bins) if adaptive else np.linspace(0, 1, bins + 1)
    bin_ = np.searchsorted(edges[1:-1], flat)
    count = np.bincount(bin_, minlength=len(edges) - 1)
    confidence, observed = (np.bincount(bin_, of, minlength=len(count)) for of in (flat, truth))
    return Reliability(
        edges,
        ratio(confidence, count, empty=np.nan),
        ratio(observed, count, empty=np.nan),
        count,
        float(np.abs(confidence - observed).sum() / len(flat)),
        float(class_ece(probability_NK, target_NK, bins=bins, adaptive=adaptive).mean()),
    )


def class_ece(
    probabilities: np.ndarray, targets: np.ndarray, *, bins: int = BINS, adaptive: bool = False
) -> np.ndarray:
    """(K,) float64, the calibration error of every class; a class without images is in error by what it was given."""
    probability_NK, target_NK = as_pair(probabilities, targets)
    found = []
    for flat, truth in zip(probability_NK.T, target_NK.T, strict=True):
        edges = quantile_edges(flat, bins) if adaptive else np.linspace(0, 1, bins + 1)
        found.append(np.abs(np.bincount(np.searchsorted(edges[1:-1], flat), flat - truth)).sum() / len(flat))
    return np.array(found)


def image_gaps(probability_NK: np.ndarray, target_NK: np.ndarray) -> np.ndarray:
    """(N, BINS) float64: of each image and bin of equal width, the sum of probability minus truth.

    `ece` of any images is the sum over bins of |sum over the images| / (images x classes).
    """
    num_images = len(probability_NK)
    bin_NK = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability_NK)
    cell_NK = bin_NK + BINS * np.arange(num_images)[:, None]
    gaps = np.bincount(cell_NK.ravel(), (probability_NK - target_NK).ravel(), minlength=num_images * BINS)
    return gaps.reshape(num_images, BINS)


def quantile_edges(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """(B + 1,) float64 edges of at most `bins` bins of equal mass, from 0 to 1; equal edges are one."""
    inner = np.unique(np.quantile(probabilities, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.concatenate([[0.0], inner[(inner > 0) & (inner < 1)], [1.0]])
