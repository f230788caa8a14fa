"""Image ids as 64-bit hashes: an order that does not depend on that of the rows, and the ids that occur twice.

Sorting ten million ids as text takes two to three times as long; a dictionary of them takes longer too, and 1.3 GiB.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
BLOCK = 2**18
"""Rows that are hashed at a time: they stay in the cache."""
HASHED_BYTES = 256
"""Of an id; each takes time for all rows, and texts whose hashes agree are compared as they are."""


def hash_order(ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(N,) rows in an order that only their ids decide, and (N,) bool: the id there is the same as the one before.

    ids: text without nulls. Rows with the same id keep their order. Takes 40 bytes a row.
    """
    hash_N = _hashes(ids)
    order = np.argsort(hash_N, kind="stable")
    hash_N = hash_N[order]
    again_N = np.concatenate([[False], hash_N[1:] == hash_N[:-1]])[: len(order)]
    places = np.flatnonzero(again_N)
    same = pc.equal(ids.take(pa.array(order[places])), ids.take(pa.array(order[places - 1])))
    if not pc.all(same, min_count=0).as_py():  # different ids, one hash: once in 370,000 tables of ten million ids
        _settle(ids, order, again_N)
    return order, again_N


def repeated(ids: pa.Array) -> np.ndarray:
    """(N,) bool: True at the second and later rows of an id."""
    order, again_N = hash_order(ids)
    repeated_N = np.empty(len(order), dtype=bool)
    repeated_N[order] = again_N
    return repeated_N


def _settle(ids: pa.Array, order: np.ndarray, again_N: np.ndarray) -> None:
    """Where hashes agree the text decides. Changes both arrays."""
    ends = np.flatnonzero(
        np.diff(again_N.astype(np.int8), append=0)
    ).tolist()  # before the first and at the last of a run
    for before, last in zip(ends[::2], ends[1::2], strict=True):
        rows = slice(before, last + 1)
        named = sorted((ids[row].as_py(), row) for row in order[rows].tolist())
        order[rows] = [row for _, row in named]
        again_N[rows] = [k > 0 and named[k - 1][0] == text for k, (text, _) in enumerate(named)]


def _hashes(ids: pa.Array) -> np.ndarray:
    """Text -> (N,) uint64: an exclusive or, a multiplication and a shift for every eight bytes."""
    texts = ids.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    edges = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if data is None or data.size < 8:
        data = pa.py_buffer((b"" if data is None else data.to_pybytes()).ljust(8, b"\0"))
    words = np.ndarray((data.size - 7,), "<u8", data, strides=(1,))  # the eight bytes from each byte on
    hash_N = np.empty(len(texts), dtype=np.uint64)
    for start in range(0, len(texts), BLOCK):
        edge = edges[start : start + BLOCK + 1]
        length = np.diff(edge)
        value = length.astype(np.uint64) * MULTIPLIER
        for first in range(0, min(int(length.max()), HASHED_BYTES), 8):
            at = np.minimum(edge[:-1] + first, data.size - 8)
            skipped = np.minimum(edge[:-1] + first - at, 7)  # near the end of the data a word begins too early
            missing = 8 - np.clip(length - first, 1, 8)  # and near the end of a text it goes on too long
            word = words[at] >> (8 * skipped).astype(np.uint64) << (8 * missing).astype(np.uint64)
            mixed = (value ^ word) * MULTIPLIER
            value = np.where(length > first, mixed ^ mixed >> np.uint64(32), value)
        hash_N[start : start + BLOCK] = value
    return hash_N
