"""Neighbours: what scikit-learn finds, ties by position, and how far neighbours agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from hpa_ray.analysis import neighbors
from hpa_ray.analysis.neighbors import nearest, neighbor_shares, retrieval


@pytest.mark.parametrize("exclude_self", [False, True])
def test_the_neighbours_are_those_of_scikit_learn(exclude_self: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "CHUNK_BYTES", 8 * 200 * 7)  # seven queries at a time
    vectors = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
    found = nearest(vectors, vectors, k=9, exclude_self=exclude_self)
    oracle = NearestNeighbors(n_neighbors=9, metric="cosine", algorithm="brute").fit(vectors.astype(np.float64))
    distances, positions = oracle.kneighbors(None if exclude_self else vectors.astype(np.float64))
    np.testing.assert_array_equal(found.positions_QK, positions)
    np.testing.assert_allclose(found.similarity_QK, 1 - distances, atol=1e-6)
    assert (found.positions_QK.dtype, found.similarity_QK.dtype) == (np.int64, np.float32)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 10_000), st.booleans())
def test_equal_vectors_stand_by_position(num: int, k: int, seed: int, exclude_self: bool) -> None:
    rng = np.random.default_rng(seed)
    distinct = rng.normal(size=(3, 4))
    vectors = distinct[rng.integers(0, 3, num)] * rng.uniform(0.5, 2, (num, 1))
    vectors[rng.random(num) < 0.2] = 0
    found = nearest(vectors, vectors, k=k, exclude_self=exclude_self)
    assert found.positions_QK.shape == (num, min(k, num - exclude_self))
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    for query, positions in enumerate(found.positions_QK):
        similarity = np.round(unit @ unit[query], 6)
        others = [n for n in range(num) if not (exclude_self and n == query)]
        assert positions.tolist() == sorted(others, key=lambda n: (-similarity[n], n))[:k]


def test_few_images_have_few_neighbours() -> None:
    one = np.ones((1, 3))
    assert nearest(one, one, k=5, exclude_self=True).positions_QK.shape == (1, 0)
    assert nearest(one, np.ones((2, 3)), k=5).positions_QK.tolist() == [[0, 1]]
    assert nearest(one[:0], one, k=5).similarity_QK.shape == (0, 1)


@pytest.mark.parametrize(
    ("query", "index", "k", "exclude_self"),
    [((2, 3), (2, 4), 1, False), ((2,), (2, 2), 1, False), ((2, 3), (2, 3), 0, False), ((2, 3), (3, 3), 1, True)],
)
def test_what_does_not_fit_is_refused(query: object, index: object, k: int, exclude_self: bool) -> None:
    with pytest.raises(ValueError):
        nearest(np.ones(query), np.ones(index), k=k, exclude_self=exclude_self)  # type: ignore[call-overload]


def test_precision_is_the_mean_share_of_neighbours_of_the_class() -> None:
    targets = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]], np.uint8)
    positions = np.array([[1, 2], [0, 3], [3, 1], [0, 1]])
    np.testing.assert_array_equal(neighbor_shares(targets, positions)[0], [1, 0.5, 0])
    found = retrieval(targets, positions)
    assert found.precision_K[0] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert np.isnan(found.precision_K[1:]).all(), "of one image no other can be found"
    assert found.mean == pytest.approx(found.precision_K[0])
    assert retrieval(np.zeros((4, 3)), positions).mean is None


def test_neighbours_at_random_have_the_share_of_the_class() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((3000, 2)) < [0.1, 0.4]).astype(np.uint8)
    found = retrieval(targets, rng.integers(0, 3000, (3000, 10)))
    np.testing.assert_allclose(found.precision_K, [0.1, 0.4], atol=0.02)
