"""How often images come: every epoch the rounded expected number, over the epochs exactly that, the rare ones more."""

import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpa_ray.config import SamplingConfig
from hpa_ray.labels import CLASS_TABLE
from hpa_ray.stream.order import EpochOrder
from hpa_ray.stream.sampling import Sampling, expected_copies

quick = settings(deadline=None, max_examples=150)
REPEAT, BALANCED = SamplingConfig(name="repeat_factor"), SamplingConfig(name="class_balanced")
copies = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 6) | st.sampled_from([0.0, 0.5, 1.0, 2.0]))
tables = hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 30)), elements=st.sampled_from([0, 0, 0, 1]))


def counts(sampling: Sampling, epoch: int) -> np.ndarray:
    rows = sampling.positions(epoch, np.arange(sampling.num_samples))
    return np.bincount(rows, minlength=sampling.num_rows)


def real_table() -> np.ndarray:
    """31,072 images with the class counts of the real table, one class after the other dealt round and round."""
    targets_NK = np.zeros((31072, len(CLASS_TABLE)), np.uint8)
    start = 0
    for k, (_, count) in enumerate(CLASS_TABLE):
        targets_NK[np.arange(start, start + count) % len(targets_NK), k] = 1
        start += count
    return targets_NK


# expected copies


def test_no_sampling_is_no_array() -> None:
    assert expected_copies(SamplingConfig(), real_table()) is None


@given(targets_NK=tables, threshold=st.floats(1e-3, 1), clip=st.floats(1, 20))
@quick
def test_repeat_factor_equals_its_definition(targets_NK: np.ndarray, threshold: float, clip: float) -> None:
    cfg = SamplingConfig(name="repeat_factor", threshold=threshold, clip=clip)
    share_K = targets_NK.mean(axis=0)
    expected = [
        max([1.0, *(min(clip, np.sqrt(threshold / share_K[k])) for k in np.flatnonzero(row))]) for row in targets_NK
    ]
    assert expected_copies(cfg, targets_NK) == pytest.approx(np.array(expected))


@given(targets_NK=tables, clip=st.floats(1, 20))
@quick
def test_class_balanced_equals_its_definition(targets_NK: np.ndarray, clip: float) -> None:
    share_K = targets_NK.mean(axis=0)
    weights = [max([1 / share_K[k] for k in np.flatnonzero(row)], default=np.nan) for row in targets_NK]
    smallest = np.nanmin(weights) if targets_NK.any() else 1.0
    expected = np.minimum(np.nan_to_num(weights, nan=smallest), clip * smallest)
    got = expected_copies(SamplingConfig(name="class_balanced", clip=clip), targets_NK)
    assert got == pytest.approx(expected * len(expected) / expected.sum())


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.01, {8: 2.42, 9: 2.63, 10: 3.33, 15: 3.85, 27: 5.31, 0: 1, 7: 1}),
        (0.03, {27: 9.21, 15: 6.66}),
        (0.001, {27: 1.68, 8: 1}),
    ],
)
def test_repeats_of_the_real_classes(threshold: float, expected: dict[int, float]) -> None:
    targets_NK = real_table()
    copies_N = expected_copies(SamplingConfig(name="repeat_factor", threshold=threshold), targets_NK)
    assert copies_N is not None
    for k, factor in expected.items():  # the least repeated image of a class has no rarer one beside it
        assert copies_N[targets_NK[:, k] > 0].min() == pytest.approx(factor, abs=0.005)


def test_class_balanced_brings_rare_classes_up_to_the_clip() -> None:
    targets_NK = real_table()
    copies_N = expected_copies(BALANCED, targets_NK)
    assert copies_N is not None
    assert copies_N.sum() == pytest.approx(len(targets_NK))
    assert copies_N.max() / copies_N.min() == pytest.approx(10)
    assert copies_N[targets_NK[:, 27] > 0].min() == copies_N.max()


@pytest.mark.parametrize("cfg", [REPEAT, BALANCED], ids=["repeat_factor", "class_balanced"])
@pytest.mark.parametrize(
    "targets_NK",
    [np.zeros((5, 28), np.uint8), np.ones((1, 1), np.uint8), np.zeros((1, 28), np.uint8), np.ones((7, 1), np.uint8)],
    ids=["no class at all", "one image of one class", "one image without", "one class"],
)
def test_tables_without_a_tail_show_every_image_once(cfg: SamplingConfig, targets_NK: np.ndarray) -> None:
    sampling = Sampling(len(targets_NK), 0, expected_copies(cfg, targets_NK))
    assert np.array_equal(counts(sampling, 3), np.ones(len(targets_NK)))


# epochs


def test_without_repeats_positions_are_the_places() -> None:
    sampling = Sampling(1000, 0, None)
    places = np.array([5, 3, 999])
    assert sampling.num_samples == 1000
    assert sampling.positions(7, places) is places


@given(copies_N=copies, seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 5))
@quick
def test_every_row_comes_floor_or_ceil_of_its_expected_number(copies_N: np.ndarray, seed: int, epoch: int) -> None:
    sampling = Sampling(len(copies_N), seed, copies_N)
    got = counts(sampling, epoch)
    assert abs(sampling.num_samples - copies_N.sum()) <= 0.5 + 1e-6
    assert got.sum() == sampling.num_samples
    assert (got >= np.floor(copies_N)).all()
    assert (got <= np.ceil(copies_N)).all()


@given(copies_N=copies, seed=st.integers(0, 9))
@quick
def test_the_list_goes_up_once_per_copy(copies_N: np.ndarray, seed: int) -> None:
    sampling = Sampling(len(copies_N), seed, copies_N)
    rows = sampling.positions(1, np.arange(sampling.num_samples))
    got = np.bincount(rows, minlength=len(copies_N))
    assert rows.tolist() == [row for times in range(6) for row in np.flatnonzero(got > times)]


def test_over_many_epochs_every_row_comes_as_often_as_expected() -> None:
    rng = np.random.default_rng(0)
    copies_N = rng.uniform(0, 3, 40)
    copies_N *= 60 / copies_N.sum()
    sampling = Sampling(40, 11, copies_N)
    mean = np.mean([counts(sampling, epoch) for epoch in range(4000)], axis=0)
    part = copies_N % 1
    assert (np.abs(mean - copies_N) < 4.5 * np.sqrt(part * (1 - part) / 4000) + 1e-9).all()


def test_rows_of_equal_share_come_in_changing_company() -> None:
    sampling = Sampling(8, 0, np.full(8, 0.5))
    sets = {tuple(counts(sampling, epoch)) for epoch in range(600)}
    assert len(sets) == 70  # all choices of 4 out of 8: none is left out, as one fixed order would


def test_epochs_and_seeds_differ_and_repeat_themselves() -> None:
    copies_N = np.random.default_rng(1).uniform(0, 3, 300)
    lists = {}
    for seed in range(2):
        for epoch in (2, 0, 1):
            sampling = Sampling(300, seed, copies_N.copy())
            rows = sampling.positions(epoch, np.arange(sampling.num_samples))
            lists[seed, epoch] = tuple(rows)
            again = Sampling(300, seed, copies_N).positions(epoch, np.array([7, 100, 3]))
            assert tuple(again) == (rows[7], rows[100], rows[3])
    assert len(set(lists.values())) == 6


def test_a_pickled_sampling_is_the_same_and_small() -> None:
    sampling = Sampling(300, 5, np.random.default_rng(1).uniform(0, 3, 300))
    before = sampling.positions(0, np.arange(sampling.num_samples))
    pickled = pickle.dumps(sampling)
    assert len(pickled) < 300 * 8 + 1000  # the epoch's list stays behind
    there = pickle.loads(pickled)
    assert there == sampling
    assert hash(there) == hash(sampling)
    assert there != Sampling(300, 5, np.ones(300))
    assert np.array_equal(there.positions(0, np.arange(there.num_samples)), before)
    assert len(pickle.dumps(Sampling(10**7, 0, None))) < 1000


def test_copies_of_an_image_lie_far_apart_in_the_order() -> None:
    targets_NK = real_table()
    sampling = Sampling(len(targets_NK), 0, expected_copies(REPEAT, targets_NK))
    order = EpochOrder(sampling.num_samples, 0)
    rows = sampling.positions(0, order.rows(0, 0, sampling.num_samples))
    place: dict[int, int] = {}
    gaps = []
    for where, row in enumerate(rows.tolist()):
        if row in place:
            gaps.append(where - place[row])
        place[row] = where
    assert len(gaps) == sampling.num_samples - len(targets_NK)
    assert np.mean(np.array(gaps) < 32) < 0.02  # in one batch


def test_a_million_rows_take_a_moment() -> None:
    targets_NK = np.tile(real_table(), (32, 1))
    start = time.perf_counter()
    sampling = Sampling(len(targets_NK), 0, expected_copies(BALANCED, targets_NK))
    sampling.positions(0, np.arange(32))
    assert time.perf_counter() - start < 5  # 0.4 s on one core
    start = time.perf_counter()
    for first in range(0, 32 * 200, 32):
        sampling.positions(0, np.arange(first, first + 32))
    assert time.perf_counter() - start < 1  # 200 batches from the list that is there
