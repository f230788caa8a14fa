"""Embeddings -> the nearest images, and how far they agree. Before: embed. After: label_errors, run.

Q queries, N images of the index, F features, K classes (of agreement) or neighbours (of a search).
"""

from typing import NamedTuple

import numpy as np

CHUNK_BYTES = 64 * 2**20
"""Of similarities that are held at once."""


class Neighbors(NamedTuple):
    """Per query its nearest images of the index, the most similar first; of equal ones the lower position first."""

    positions_QK: np.ndarray  # int64
    similarity_QK: np.ndarray  # float32, cosine


class Retrieval(NamedTuple):
    """How often the neighbours of an image of a class are of that class too."""

    precision_K: np.ndarray  # float64, nan where fewer than two images have the class
    mean: float | None  # over the classes that have one


def nearest(query_QF: np.ndarray, index_NF: np.ndarray, *, k: int, exclude_self: bool = False) -> Neighbors:
    """Exact search by cosine similarity; vectors may have any length, one of zeros is as far (0) from all.

    exclude_self: query n is image n of the index, and not its own neighbour. Where the index holds fewer than k
    others, all of them. Raises ValueError if the two do not fit together or k is below 1.
    """
    if query_QF.ndim != 2 or index_NF.ndim != 2 or query_QF.shape[1] != index_NF.shape[1]:
        raise ValueError(f"queries {query_QF.shape} and index {index_NF.shape} are no two tables of as many features")
    if k < 1:
        raise ValueError(f"{k=}: ask for one neighbour or more")
    if exclude_self and len(query_QF) != len(index_NF):
        raise ValueError(f"exclude_self, but {len(query_QF)} queries for {len(index_NF)} images of the index")
    # float64: so that the products of equal vectors, which blocks of a product may round apart, are ties in float32
    query_QF, index_NF = _unit(query_QF), _unit(index_NF)
    count = min(k, len(index_NF) - exclude_self)
    if count < 1 or not len(query_QF):
        empty = (len(query_QF), max(count, 0))
        return Neighbors(np.zeros(empty, np.int64), np.zeros(empty, np.float32))
    step = max(1, CHUNK_BYTES // (8 * len(index_NF)))
    found = []
    for start in range(0, len(query_QF), step):
        similarity = (query_QF[start : start + step] @ index_NF.T).astype(np.float32)
        if exclude_self:
            rows = np.arange(len(similarity))
            similarity[rows, start + rows] = -np.inf
        found.append(_best(similarity, count))
    return Neighbors(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def retrieval(targets_NK: np.ndarray, positions_NP: np.ndarray) -> Retrieval:
    """Precision at the number of neighbours P, per class: the mean over its images of the share of neighbours in it.

    positions_NP: of a search of the images among themselves. It tells how well the embedding keeps a class together,
    and depends on how frequent the class is: neighbours drawn at random have that share.
    """
    targets = targets_NK.astype(bool)
    counts_K = targets.sum(axis=0)
    share_NK = neighbor_shares(targets_NK, positions_NP)
    precision_K = np.full(targets.shape[1], np.nan)
    if positions_NP.shape[1]:
        for k in np.flatnonzero(counts_K > 1):
            precision_K[k] = share_NK[targets[:, k], k].mean()
    known = precision_K[~np.isnan(precision_K)]
    return Retrieval(precision_K, float(known.mean()) if len(known) else None)


def neighbor_shares(targets_NK: np.ndarray, positions_QP: np.ndarray) -> np.ndarray:
    """(Q, K) float64: the share of each query's P neighbours that have the class; 0 where there are none."""
    share_QK = np.zeros((len(positions_QP), targets_NK.shape[1]))
    for column in positions_QP.T:
        share_QK += targets_NK[column] > 0
    return np.asarray(share_QK / max(positions_QP.shape[1], 1))


def _unit(vectors_NF: np.ndarray) -> np.ndarray:
    wide = vectors_NF.astype(np.float64)
    length_N = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(length_N > 0, length_N, 1))


def _best(similarity_QN: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` most similar of each row: without sorting all of it, and with ties at the edge by position."""
    num = similarity_QN.shape[1]
    edge_Q = np.partition(similarity_QN, num - count, axis=1)[:, num - count]
    positions_QK = np.empty((len(similarity_QN), count), np.int64)
    for row, (values_N, edge) in enumerate(zip(similarity_QN, edge_Q, strict=True)):
        candidates = np.flatnonzero(values_N >= edge)
        positions_QK[row] = candidates[np.argsort(-values_N[candidates], kind="stable")[:count]]
    return positions_QK, np.take_along_axis(similarity_QN, positions_QK, axis=1)
