"""Hashes of all images -> the pairs to list and the groups. Before: duplicates/hashes. After: duplicates/page, csv."""

from typing import NamedTuple

import numpy as np

from hpa_ray.duplicates.groups import Groups
from hpa_ray.duplicates.pairs import NEEDED, distances, near_pairs

# N images, C stains, P pairs

MAX_LISTED = 1_000_000
"""Pairs kept to be listed (some 100 bytes each); those beyond it still count and still make groups."""


class Found(NamedTuple):
    """Near duplicates among N images.

    Of images whose hashes are the same in every stain, each is listed with the first of them only; near images with
    other hashes are listed by the first of each. So k copies make k - 1 pairs, and the pairs hang together as the
    groups do.
    """

    a_P: np.ndarray  # int64 rows, smaller than those of b; sorted by a, then b
    b_P: np.ndarray
    distances_PC: np.ndarray  # int64 bits, -1 where a stain tells nothing
    num_pairs: int
    group_N: np.ndarray  # int64: the first row of each one's group, itself where it has no duplicate
    group_sizes_N: np.ndarray  # int64
    num_compared: int  # images with enough informative stains


def find_duplicates(hashes_NC: np.ndarray, informative_NC: np.ndarray, max_distance: int) -> Found:
    """All pairs of images that differ in at most `max_distance` bits in each stain that tells something in both.

    An image with fewer than two such stains (one, where there is only one) is like any other dark image and is not
    compared. Takes a few tens of bytes per image and stain, whatever the number of pairs.
    """
    num_stains = hashes_NC.shape[1]
    rows = np.flatnonzero(informative_NC.sum(axis=1) >= min(NEEDED, num_stains))
    told = informative_NC[rows] @ (np.uint64(1) << np.arange(num_stains, dtype=np.uint64))
    order = np.lexsort((*hashes_NC[rows].T, told))  # stable: rows ascend among equals
    ordered = np.column_stack([hashes_NC[rows], told])[order]
    new = np.ones(len(rows), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = rows[order[new]]  # (U,): one image of each hash
    same_a, same_b = first[np.cumsum(new) - 1][~new], rows[order[~new]]

    groups = Groups(len(hashes_NC))
    groups.add(same_a, same_b)
    listed = [(same_a[:MAX_LISTED], same_b[:MAX_LISTED])]
    num_pairs, num_listed = len(same_a), len(listed[0][0])
    for u, v in near_pairs(hashes_NC[first], informative_NC[first], max_distance):
        a, b = first[u], first[v]
        groups.add(a, b)
        listed.append((a[: MAX_LISTED - num_listed], b[: MAX_LISTED - num_listed]))
        num_pairs += len(a)
        num_listed += len(listed[-1][0])
    ends = np.concatenate([np.stack(some) for some in listed], axis=1)
    ends = ends[:, np.lexsort(np.sort(ends, axis=0)[::-1])]
    a, b = np.sort(ends, axis=0)
    told_distances = distances(hashes_NC, informative_NC, a, b)
    return Found(a, b, told_distances, num_pairs, groups.root_N, groups.sizes(), len(rows))
