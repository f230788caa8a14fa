"""Missed and predicted instead: counted pair by pair, with a lift of 1 where there is nothing to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_ray.analysis.confusions import confusions, leaning_probabilities, top_leanings, top_pairs


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 10_000))
def test_counts_shares_and_lifts_by_the_definition(num: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, said = (rng.integers(0, 2, (num, classes), np.uint8) for _ in range(2))
    found = confusions(truth, said)
    for i in range(classes):
        missed = [n for n in range(num) if truth[n, i] and not said[n, i]]
        assert found.missed_K[i] == len(missed)
        for j in range(classes):
            wrong = [n for n in range(num) if said[n, j] and not truth[n, j]]
            without = [n for n in range(num) if not truth[n, j]]
            both = set(missed) & set(wrong)
            assert found.counts_KK[i, j] == len(both)
            possible = set(missed) & set(without)
            if i == j or not possible:
                assert np.isnan(found.share_KK[i, j])
                continue
            assert found.share_KK[i, j] == pytest.approx(len(both) / len(possible))
            if wrong:
                expected = len(both) / len(possible) / (len(wrong) / len(without))
                assert found.lift_KK[i, j] == pytest.approx(expected)
            else:
                assert np.isnan(found.lift_KK[i, j])


def test_a_class_taken_for_another_comes_first_and_chance_has_a_lift_of_one() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((20_000, 4)) < 0.3).astype(np.uint8)
    plain = confusions(truth, truth ^ (rng.random(truth.shape) < 0.3))
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(plain.lift_KK[off], 1, atol=0.2)
    said = truth ^ (rng.random(truth.shape) < 0.1)
    swapped = (truth[:, 2] == 1) & (truth[:, 0] == 0) & (rng.random(len(truth)) < 0.3)
    said[swapped, 2], said[swapped, 0] = 0, 1
    first = top_pairs(confusions(truth, said))[0]
    assert (first.missed, first.predicted) == (2, 0)
    assert first.images >= swapped.sum()
    assert first.lift > 1.5
    assert first.share > 0.3


def test_few_images_are_no_pair() -> None:
    truth = np.zeros((50, 3), np.uint8)
    said = np.zeros((50, 3), np.uint8)
    truth[:2, 0] = said[:2, 1] = 1
    assert top_pairs(confusions(truth, said)) == []
    assert [(pair.missed, pair.predicted) for pair in top_pairs(confusions(truth, said), fewest_images=2)] == [(0, 1)]
    assert top_pairs(confusions(truth, truth)) == []


def test_leanings_are_mean_probabilities_of_classes_that_are_not_there() -> None:
    truth = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [0, 0]], np.uint8)
    probabilities = np.array([[0.9, 0.3], [0.9, 0.4], [0.9, 0.5], [0.9, 1.0], [0.1, 0.0]])
    found = leaning_probabilities(truth, probabilities)
    assert found[0, 1] == pytest.approx(0.4)
    assert np.isnan(found[1, 0]), "the one image of class 1 has class 0 too"
    (lean,) = top_leanings(truth, probabilities)
    assert lean._asdict() == pytest.approx({"of": 0, "towards": 1, "images": 3, "probability": 0.4, "base": 0.3})
