"""Examples are what their kind says, no image twice for a class; a draw keeps what is rare."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_ray.analysis.draw import draw
from hpa_ray.analysis.examples import examples, surprise

K = 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 4), st.integers(0, 10_000))
def test_each_kind_is_what_it_says(num: int, per_class: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, p, t = rng.integers(0, 2, (num, K), np.uint8), rng.random((num, K)).round(2), rng.random(K).round(2)
    found = examples(truth, p, t, per_class=per_class)
    for k in range(K):
        mine = [one for one in found if one.of == k]
        assert len({one.position for one in mine}) == len(mine)
        by_kind = {kind: [one.position for one in mine if one.kind == kind] for kind in ("best", "worst", "surprising")}
        hits = [n for n in range(num) if truth[n, k] and p[n, k] >= t[k]]
        wrong = [n for n in range(num) if bool(truth[n, k]) != bool(p[n, k] >= t[k])]
        assert by_kind["best"] == sorted(hits, key=lambda n: (-p[n, k], n))[:per_class]
        assert len(by_kind["worst"]) == min(per_class, len(wrong))
        assert set(by_kind["worst"]) <= set(wrong)
        missed = sorted((n for n in wrong if truth[n, k]), key=lambda n: (p[n, k], n))
        if missed and per_class:
            assert by_kind["worst"][0] == missed[0]
        assert all(truth[n, k] for n in by_kind["surprising"])


def test_worst_are_by_turns_missed_and_wrongly_found() -> None:
    truth = np.array([[1], [1], [0], [0], [0]], np.uint8)
    p = np.array([[0.2], [0.1], [0.8], [0.9], [0.7]])
    found = examples(truth, p, np.array([0.5]), per_class=4)
    assert [one.position for one in found if one.kind == "worst"] == [1, 3, 0, 2]


def test_surprise_is_measured_from_the_threshold() -> None:
    p, t = np.array([[0.05, 0.9], [0.0, 1.0]]), np.array([0.05, 0.1])
    found = surprise(np.array([[1, 0], [1, 0]]), p, t)
    assert found[0, 0] == pytest.approx(np.log(2)), "at the threshold"
    assert found[0, 1] == pytest.approx(np.log(9) - np.log(1 / 9), abs=0.02)
    assert np.isfinite(found).all()
    assert found[1, 0] > 10


def test_a_surprising_image_is_one_whose_other_labels_are_wrong_too() -> None:
    truth = np.array([[1, 0], [1, 0], [1, 1]], np.uint8)
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.01]])
    found = examples(truth, p, np.array([0.5, 0.5]), per_class=1)
    assert [(one.kind, one.position) for one in found if one.of == 0] == [("best", 0), ("surprising", 2)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 250), st.integers(0, 10_000))
def test_a_draw_has_the_size_asked_for_and_keeps_the_rarest(num: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random((num, 6)) < [0.02, 0.05, 0.1, 0.3, 0.5, 0.8]).astype(np.uint8)
    found = draw(targets, most=most, seed=seed)
    assert len(found) == min(num, most)
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(found, draw(targets, most=most, seed=seed))
    counts = targets.sum(axis=0)
    rarest = int(np.where(counts > 0, counts, num + 1).argmin())
    if 0 < counts[rarest] <= most // 7:
        assert set(np.flatnonzero(targets[:, rarest])) <= set(found.tolist())


def test_other_seeds_draw_other_images() -> None:
    targets = np.ones((500, 1), np.uint8)
    assert draw(targets, most=50, seed=0).tolist() != draw(targets, most=50, seed=1).tolist()
