"""The inner loops of the search for pairs: rows of one bucket, or of two sets, compared by one hash. After: pairs."""

from collections.abc import Iterator

import numpy as np

# U hashes, P pairs

BLOCK = 1 << 16
"""Comparisons at a time: their temporaries stay in the cache (a fifth of the time of blocks that do not)."""
LARGE_BUCKET = 1024
"""Rows from which a bucket is compared on its own, in blocks; smaller ones together, by shifting all of them."""

Pairs = tuple[np.ndarray, np.ndarray]


def bucket_pairs(key_U: np.ndarray, values_U: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """Pairs (a, b) of rows with the same key (uint64) whose values (uint64) differ in at most `max_distance` bits.

    A few pairs of neighbouring buckets may be among them: they are near too, the caller tells them apart.
    """
    order = np.argsort(key_U, kind="stable")
    ordered = key_U[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.append(starts, len(order)))
    for start, size in zip(starts[sizes > LARGE_BUCKET], sizes[sizes > LARGE_BUCKET], strict=True):
        yield from blocks_within(values_U, order[start : start + size], max_distance)
    # the larger buckets first: those with more than k rows are then one piece, whose rows meet their k-th neighbours
    small = np.flatnonzero((sizes > 1) & (sizes <= LARGE_BUCKET))
    small = small[np.argsort(-sizes[small], kind="stable")]
    counts = sizes[small]
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    rows = order[np.repeat(starts[small] - (ends - counts), counts) + np.arange(total)]
    values = values_U[rows]
    for shift in range(1, int(counts.max(initial=1))):
        stop = int(ends[np.searchsorted(-counts, -shift, side="left") - 1])
        for begin in range(0, stop - shift, BLOCK):
            end = min(begin + BLOCK, stop - shift)
            near = np.bitwise_count(values[begin:end] ^ values[begin + shift : end + shift]) <= max_distance
            if near.any():
                found = np.flatnonzero(near) + begin
                yield rows[found], rows[found + shift]


def blocks_within(values: np.ndarray, rows: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """Pairs (a, b), a before b in `rows` (ascending), whose values differ in at most `max_distance` bits."""
    chosen = values[rows]
    height = _height(len(rows))
    for top in range(0, len(rows), height):
        for i, j in _near(chosen[top : top + height], chosen[top:], max_distance):
            keep = i < j
            yield rows[top + i[keep]], rows[top + j[keep]]


def blocks_between(values: np.ndarray, rows: np.ndarray, others: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """As `blocks_within` for one row of `rows` and one of `others`, the smaller number first."""
    chosen, against = values[rows], values[others]
    height = _height(len(others))
    for top in range(0, len(rows), height):
        for i, j in _near(chosen[top : top + height], against, max_distance):
            a, b = rows[top + i], others[j]
            yield np.minimum(a, b), np.maximum(a, b)


def _height(width: int) -> int:
    return max(1, BLOCK // max(1, min(width, 1 << 10)))


def _near(some: np.ndarray, others: np.ndarray, max_distance: int) -> Iterator[Pairs]:
    """Places (i, j) in the two whose values are near, piece by piece."""
    width = max(1, BLOCK // max(1, len(some)))
    for left in range(0, len(others), width):
        near = np.bitwise_count(some[:, None] ^ others[None, left : left + width]) <= max_distance
        if near.any():
            i, j = np.nonzero(near)
            yield i, j + left
