"""Which images of a large part are looked at. Before: stream/data. After: run. N images, K classes."""

import numpy as np


def draw(targets_NK: np.ndarray, *, most: int, seed: int) -> np.ndarray:
    """Up to `most` positions, ascending: all images of rare classes, and equal numbers of the others, by a seeded draw.

    Each image stands with the rarest class it has (those without a class stand together). The smallest groups
    come first and give all they have, as long as that is no more than an equal share of what is left.
    """
    if len(targets_NK) <= most:
        return np.arange(len(targets_NK))
    counts_K = targets_NK.sum(axis=0, dtype=np.int64)
    rank_K = np.argsort(np.argsort(counts_K, kind="stable"), kind="stable")
    rank_NK = np.where(targets_NK > 0, rank_K, len(counts_K))
    group_N = rank_NK.min(axis=1)
    order = np.random.default_rng([seed, 3]).permutation(len(targets_NK))
    groups = sorted((order[group_N[order] == group] for group in np.unique(group_N)), key=len)
    chosen, left = [], most
    for number, group in enumerate(groups):
        taken = group[: left // (len(groups) - number)]
        chosen.append(taken)
        left -= len(taken)
    return np.sort(np.concatenate(chosen))
