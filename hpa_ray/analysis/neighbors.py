"""Exact search for the nearest embeddings by cosine similarity. Before: predict. After: retrieval."""

import numpy as np

BLOCK_VALUES = 2**24
"""Similarities worked out at a time: 64 MiB."""

# Q queries, N images of the index, F features, K neighbours


def nearest(
    query_QF: np.ndarray, index_NF: np.ndarray, *, k: int, exclude_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar rows of the index for every query -> (Q, K) int64 positions, (Q, K) float32 similarities.

    By falling similarity, of equal ones the lower position first; K is k, or fewer where the index is smaller. A vector
    of zeros has similarity 0 to all. exclude_self: query and index are the same rows, and no row is its own neighbour.
    """
    query_QF, index_NF = _normalised(query_QF), _normalised(index_NF)
    num_queries, num_images = len(query_QF), len(index_NF)
    kept = max(0, min(k, num_images - exclude_self))
    position_QK = np.empty((num_queries, kept), np.int64)
    similarity_QK = np.empty((num_queries, kept), np.float32)
    block = max(1, BLOCK_VALUES // max(1, num_images))
    for start in range(0, num_queries, block):
        similarity_BN = query_QF[start : start + block] @ index_NF.T
        if exclude_self:
            rows = np.arange(len(similarity_BN))
            similarity_BN[rows, start + rows] = -np.inf
        order_BK = np.argsort(-similarity_BN, axis=1, kind="stable")[:, :kept]
        position_QK[start : start + block] = order_BK
        similarity_QK[start : start + block] = np.take_along_axis(similarity_BN, order_BK, axis=1)
    return position_QK, similarity_QK


def _normalised(vector_NF: np.ndarray) -> np.ndarray:
    vector_NF = np.asarray(vector_NF, np.float32)
    length_N1 = np.linalg.norm(vector_NF, axis=1, keepdims=True)
    unit_NF: np.ndarray = np.divide(vector_NF, length_N1, out=np.zeros_like(vector_NF), where=length_N1 > 0)
    return unit_NF
