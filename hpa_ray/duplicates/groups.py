"""Pairs -> groups: images that hang together, directly or through others. Before: duplicates/pairs. After: the csv."""

import numpy as np

# N images


class Groups:
    """A partition of N images that grows coarser as pairs are added."""

    def __init__(self, num_images: int) -> None:
        self.root_N = np.arange(num_images)  # int64: the smallest image of each one's group

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Unite the groups of a[k] and b[k] for every k; (P,) int64 each.

        Each root is hooked to the smallest root it meets and the chains are cut short, until no pair joins two
        groups: a number of rounds that grows with the logarithm of the longest chain.
        """
        root = self.root_N
        while True:
            low, high = root[a], root[b]
            differ = low != high
            if not differ.any():
                return
            a, b, low, high = a[differ], b[differ], low[differ], high[differ]
            np.minimum.at(root, np.maximum(low, high), np.minimum(low, high))
            while (shorter := root[root] != root).any():
                root[shorter] = root[root[shorter]]

    def sizes(self) -> np.ndarray:
        """(N,) int64: how many images the group of each one has."""
        counts: np.ndarray = np.bincount(self.root_N, minlength=len(self.root_N))[self.root_N]
        return counts
