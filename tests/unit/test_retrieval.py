"""Nearest neighbours against scikit-learn, and what they vote for."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from hpa_ray.analysis.neighbors import nearest
from hpa_ray.labels import NUM_CLASSES, multi_hot
from hpa_ray.retrieval import TrainingEmbeddings, voted
from hpa_ray.schema import EMBEDDING_ROW, NEIGHBOR_ROW


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(2, 30), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_nearest_is_that_of_scikit_learn(num_queries: int, num_images: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    query, index = rng.normal(size=(num_queries, 6)), rng.normal(size=(num_images, 6))
    positions, similarities = nearest(query, index, k=k)
    kept = min(k, num_images)
    distances, expected = (
        NearestNeighbors(n_neighbors=kept, metric="cosine", algorithm="brute").fit(index).kneighbors(query)
    )
    assert positions.dtype == np.int64
    assert similarities.dtype == np.float32
    assert np.abs(similarities - (1 - distances)).max() < 1e-5
    assert np.mean(positions == expected) > 0.99  # near ties may change places


def test_ties_zeros_and_oneself() -> None:
    index = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [-1, 0]])
    positions, similarities = nearest(np.array([[3, 0], [0, 0]]), index, k=5)
    assert positions.tolist() == [[1, 2, 0, 3, 4], [0, 1, 2, 3, 4]]
    assert similarities.tolist() == [[1, 1, 0, 0, -1], [0, 0, 0, 0, 0]]
    whole = nearest(index, index, k=4, exclude_self=True)
    assert not (whole[0] == np.arange(5)[:, None]).any()
    assert nearest(index, index, k=9, exclude_self=True)[0].shape == (5, 4)


def test_votes() -> None:
    target = multi_hot([[0, 3], [0], [5]])
    assert voted(target, np.array([0.9, 0.8, 0.7], np.float32)) == [0]
    assert voted(target, np.array([0.9, 0.1, -0.7], np.float32)) == [0, 3]
    assert voted(multi_hot([[1], [2], [3]]), np.array([0.5, 0.4, 0.4], np.float32)) == [1]
    assert voted(multi_hot([[2], [2]]), np.array([-0.5, -0.4], np.float32)) == [2]
    assert voted(np.zeros((0, NUM_CLASSES), np.uint8), np.empty(0, np.float32)) == []


def test_an_image_of_the_training_part_is_not_its_own_neighbour() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)
    training = TrainingEmbeddings(["a", "b", "c"], multi_hot([[0], [1], [2]]), vectors)
    table = pa.table({"image_id": ["a", "z"], "truth": [None, None], "embedding": list(vectors[:2])}, EMBEDDING_ROW)
    rows = training.neighbors(table, 2)
    assert rows.schema.equals(NEIGHBOR_ROW)
    assert rows["neighbor_id"].to_pylist() == [["b", "c"], ["b", "a"]]
    assert rows["labels"].to_pylist() == [[[1], [2]], [[1], [0]]]
    assert rows["neighbor_labels"].to_pylist() == [[1], [1]]
    assert training.neighbors(table.slice(0, 0), 2).equals(NEIGHBOR_ROW.empty_table())


def test_many_queries_are_those_asked_one_by_one() -> None:
    rng = np.random.default_rng(0)
    query, index = rng.normal(size=(900, 4)).astype(np.float32), rng.normal(size=(20_000, 4)).astype(np.float32)
    positions, similarities = nearest(query, index, k=3)
    for row in (0, 449, 899):
        one = nearest(query[row : row + 1], index, k=3)
        assert np.array_equal(one[0][0], positions[row])
        assert np.abs(one[1][0] - similarities[row]).max() < 1e-6
