"""Hashes -> every pair of images within a distance, exactly, without comparing all with all. After: groups.

Two hashes that differ in at most d bits are equal in at least one of any d + 1 bands of bits. So each pair of images
shares a band of a stain p and, as both stains must agree, one of a stain q: it lies in the same bucket for one of the
(d + 1)^2 choices of two bands. Within buckets all are compared. This is the pigeonhole search of Manku, Jain and Das
Sarma, "Detecting near-duplicates for web crawling" (2007), with two hashes in place of one.
"""

from collections.abc import Iterator
from itertools import combinations, combinations_with_replacement, product

import numpy as np

from hpa_ray.duplicates.buckets import blocks_between, blocks_within, bucket_pairs
from hpa_ray.duplicates.hashes import NUM_BITS

# U different hash tuples, C stains, P pairs

NEEDED = 2
"""Stains that must have something to tell in both images. One alone may be all but empty (green often is)."""

Pairs = tuple[np.ndarray, np.ndarray]


def near_pairs(hashes_UC: np.ndarray, informative_UC: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """Every pair a < b once, in batches of two (P,) int64 arrays, in an order that depends on the rows alone.

    A pair: at most `max_distance` bits differ in each stain that is informative in both images, and there are two of
    those at least (one, where the images have only one stain).
    """
    num_stains = hashes_UC.shape[1]
    needed = min(NEEDED, num_stains)
    stains = np.ascontiguousarray(hashes_UC.T)
    masks = informative_UC @ (1 << np.arange(num_stains))  # which stains tell something, as bits
    kinds = {int(mask): np.flatnonzero(masks == mask) for mask in np.unique(masks)}
    left = [
        (one, other) for one, other in combinations_with_replacement(kinds, 2) if (one & other).bit_count() >= needed
    ]
    choices = [sum(1 << stain for stain in chosen) for chosen in combinations(range(num_stains), needed)]

    def comparisons(some: list[tuple[int, int]]) -> int:
        return sum(kinds[one].size * kinds[other].size // (2 if one == other else 1) for one, other in some)

    def having(choice: int) -> list[tuple[int, int]]:
        return [(one, other) for one, other in left if one & other & choice == choice]

    # Nearly always all is done by the first choice of stains; rows without one of these are few and compared with all.
    while left:
        choice = max(choices, key=lambda choice: comparisons(having(choice)))
        done = having(choice)
        rows = np.sort(np.concatenate([kinds[kind] for kind in {kind for pair in done for kind in pair}]))
        if _banding_pays(len(rows), comparisons(done), needed, max_distance):
            wanted = np.zeros((1 << num_stains, 1 << num_stains), bool)
            wanted[tuple(np.transpose([*done, *((other, one) for one, other in done)]))] = True
            chosen = [stain for stain in range(num_stains) if choice >> stain & 1]
            for a, b in _by_bands(stains, rows, chosen, max_distance):
                keep = wanted[masks[a], masks[b]]
                yield _agreeing(stains, masks, a[keep], b[keep], max_distance)
        else:
            for one, other in done:
                for a, b in _by_all(stains, kinds[one], kinds[other], one & other, max_distance):
                    yield _agreeing(stains, masks, a, b, max_distance)
        left = [pair for pair in left if pair not in done]


def distances(hashes: np.ndarray, informative: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P, C) int64 bits in which the stains of a and b differ; -1 where a stain tells nothing in one of them."""
    differ = np.bitwise_count(hashes[a] ^ hashes[b]).astype(np.int64)
    return np.where(informative[a] & informative[b], differ, -1)


def _banding_pays(num_rows: int, num_comparisons: int, num_keys: int, max_distance: int) -> bool:
    """Both ways are exact; which is faster, in comparisons: sorting costs some 60 a row and choice of bands."""
    num_bands = max_distance + 1
    in_bucket = num_rows * 2.0 ** (-num_keys * NUM_BITS / num_bands)
    return bool(num_bands**num_keys * num_rows * (60 + in_bucket) < num_comparisons)


def _by_all(stains: np.ndarray, rows: np.ndarray, others: np.ndarray, mask: int, max_distance: int) -> Iterator[Pairs]:
    """Pairs a < b of one of `rows` and one of `others` that are near in the first stain of `mask`, each once."""
    values = stains[(mask & -mask).bit_length() - 1]
    if rows is others:
        return blocks_within(values, rows, max_distance)
    return blocks_between(values, rows, others, max_distance)


def _by_bands(stains: np.ndarray, rows: np.ndarray, chosen: list[int], max_distance: int) -> Iterator[Pairs]:
    """Pairs a < b of rows that are near in every chosen stain, each once."""
    edges = [NUM_BITS * band // (max_distance + 1) for band in range(max_distance + 2)]
    bands = list(zip(edges[:-1], np.diff(edges).tolist(), strict=True))
    hashes = stains[chosen][:, rows]
    for choice in product(range(len(bands)), repeat=len(chosen)):
        key = np.zeros(len(rows), np.uint64)
        for values, number in zip(hashes, choice, strict=True):
            start, width = bands[number]
            key = key << np.uint64(width) | values >> np.uint64(start) & np.uint64((1 << width) - 1)
        for a, b in bucket_pairs(key, hashes[0], max_distance):
            a, b = np.minimum(a, b), np.maximum(a, b)
            # a pair is in the bucket of every choice of bands it shares: it is taken at the first of them
            keep = np.ones(len(a), bool)
            for values, number in zip(hashes, choice, strict=True):
                differ = values[a] ^ values[b]
                keep &= np.bitwise_count(differ) <= max_distance
                in_band = [differ >> np.uint64(at) & np.uint64((1 << width) - 1) for at, width in bands[: number + 1]]
                keep &= (in_band[-1] == 0) & np.all(in_band[:-1], axis=0)
            if keep.any():
                yield rows[a[keep]], rows[b[keep]]


def _agreeing(stains: np.ndarray, masks: np.ndarray, a: np.ndarray, b: np.ndarray, max_distance: int) -> Pairs:
    keep = np.ones(len(a), bool)
    for number, values in enumerate(stains):
        told = masks[a] & masks[b] & 1 << number
        keep &= (told == 0) | (np.bitwise_count(values[a] ^ values[b]) <= max_distance)
    return a[keep], b[keep]
