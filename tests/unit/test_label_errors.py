"""Suspected label errors are mostly those that were made, and few where none were."""

import numpy as np
import pytest

from hpa_ray.analysis.label_errors import disagreement, suspects
from hpa_ray.analysis.neighbors import nearest, neighbor_shares

N, K, FLIPPED = 2000, 8, 0.03


def simulated(seed: int, noise: float = 1.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True labels, from 2 % to 30 % of the images; probabilities of a model that is good, not perfect, and knows only
    the truth; embeddings that hold the classes and as much noise."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((N, K)) < np.linspace(0.02, 0.3, K)).astype(np.uint8)
    logits = np.where(truth, 2.0, -3.0) + noise * rng.normal(size=(N, K))
    directions = rng.normal(size=(K, 32))
    embedding = truth @ directions + 1.5 * rng.normal(size=(N, 32))
    return truth, 1 / (1 + np.exp(-logits)), embedding


def flipped(truth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """3 % of the entries turned over, and which."""
    wrong = np.random.default_rng([seed, 1]).random(truth.shape) < FLIPPED
    return (truth ^ wrong).astype(np.uint8), wrong


def shares(labels: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    return neighbor_shares(labels, nearest(embedding, embedding, k=10, exclude_self=True).positions_QK)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("with_neighbors", [False, True])
def test_most_of_what_is_found_was_flipped(seed: int, with_neighbors: bool) -> None:
    truth, probabilities, embedding = simulated(seed)
    labels, wrong = flipped(truth, seed)
    found = suspects(labels, probabilities, shares(labels, embedding) if with_neighbors else None)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    hits = np.array([wrong[one.position, one.of] for one in found])
    num = int(wrong.sum())
    assert num > 400
    assert hits[:100].mean() > 0.9, "chance is 0.03"
    assert hits.mean() > 0.8
    assert hits[:num].sum() / num > 0.6, "precision at the number of flips"
    for one in found:
        assert one.given == labels[one.position, one.of]
        assert one.probability == probabilities[one.position, one.of]


def test_neighbours_make_the_ranking_better_where_the_model_is_unsure() -> None:
    truth, probabilities, embedding = simulated(3, noise=2.5)
    labels, wrong = flipped(truth, 3)
    num = int(wrong.sum())
    hits = [
        np.mean([wrong[one.position, one.of] for one in suspects(labels, probabilities, around, most=num // 2)])
        for around in (None, shares(labels, embedding))
    ]
    assert hits[1] > hits[0] + 0.1


def test_right_labels_are_seldom_suspected() -> None:
    truth, probabilities, embedding = simulated(5)
    labels, _ = flipped(truth, 5)
    num_clean = len(suspects(truth, probabilities, shares(truth, embedding)))
    num_dirty = len(suspects(labels, probabilities, shares(labels, embedding)))
    assert num_clean < 0.01 * N * K
    assert num_dirty > 3 * num_clean


def test_a_class_of_two_images_says_nothing() -> None:
    labels = np.zeros((50, 1), np.uint8)
    labels[:2] = 1
    probabilities = np.where(labels, 0.001, 0.9)
    assert suspects(labels, probabilities) == []
    labels[2] = 1
    assert len(suspects(labels, probabilities)) > 0


def test_neighbours_are_measured_by_what_is_usual_for_the_class() -> None:
    labels = np.array([[1, 1], [1, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], np.uint8)
    around = np.zeros((8, 2))
    around[:, 0] = [0.5, 0.5, 0.8, 0.6, 0, 0, 0, 0]
    otherwise = np.full((8, 2), 0.25)
    found = disagreement(labels, around, otherwise_NK=otherwise)
    np.testing.assert_allclose(found[:, 0], [1 - 5 / 6, 1 - 5 / 6, 0, 1, 0, 0, 0, 0])
    assert (found[:, 1] == 0.25).all(), "no neighbour has the second class where it is given: they do not know it"
