"""Intervals by matrix products are those of a loop that draws rows and scores them."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpa_ray.checkpoint.results import all_scores
from hpa_ray.metrics import bootstrap, per_class
from hpa_ray.metrics.intervals import LEVEL, intervals, resampled_weights, weighted_scores

FEW = st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])


def drawn(num_images: int, num_classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with ties, truth with one absent class, and decisions that are not at 0.5."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_images, num_classes)) < np.geomspace(0.5, 0.05, num_classes)).astype(np.uint8)
    targets[:, num_classes // 2] = 0
    probabilities = np.round(1 / (1 + np.exp(2 - 3.0 * targets - rng.normal(size=targets.shape))), 1)
    return probabilities, targets, probabilities > 0.3


def slowly(
    probabilities: np.ndarray, targets: np.ndarray, tuned: np.ndarray, rare: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Every score of literally repeated rows, NaN for None."""
    found = []
    for weight in weights.astype(int):
        rows = np.repeat(np.arange(len(targets)), weight)
        found.append(all_scores(probabilities[rows], targets[rows], tuned[rows], rare))
    names = [name for name in found[0] if not name.startswith("num_")]
    return {name: np.array([np.nan if one[name] is None else one[name] for one in found], float) for name in names}


def assert_equal_scores(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_weighted_scores_are_those_of_repeated_rows(seed: int) -> None:
    probabilities, targets, tuned = drawn(40, seed=seed)
    rare = np.array([False, False, True, True, True, True])
    weights = np.concatenate(list(resampled_weights(40, 30, np.random.default_rng(seed))))
    assert (weights.sum(axis=1) == 40).all()
    got = weighted_scores(probabilities, targets, tuned, rare, weights)
    assert_equal_scores(got, slowly(probabilities, targets, tuned, rare, weights))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data(), st.tuples(st.integers(1, 8), st.integers(1, 4)))
def test_also_in_degenerate_cases(data: st.DataObject, shape: tuple[int, int]) -> None:
    probabilities = data.draw(hnp.arrays(np.float64, shape, elements=FEW))
    targets, tuned = (data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1))) for _ in range(2))
    rare = data.draw(hnp.arrays(np.bool_, shape[1]))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    weights = np.concatenate(list(resampled_weights(shape[0], 5, rng)))
    expected = slowly(probabilities, targets, tuned.astype(bool), rare, weights)
    assert_equal_scores(weighted_scores(probabilities, targets, tuned, rare, weights), expected)


def moved(values: np.ndarray, score: float) -> np.ndarray:
    """Quantiles of the defined values, their mean laid on the score."""
    defined = values[~np.isnan(values)]
    most = 1 if max(defined.max(), score) <= 1 else np.inf
    return np.clip(np.quantile(defined, LEVEL) - defined.mean() + score, 0, most)


def test_intervals_are_the_quantiles_of_the_defined_resamples() -> None:
    probabilities, targets, tuned = drawn(30, seed=5)
    rare = np.array([False, False, False, False, True, True])
    weights = np.concatenate(list(resampled_weights(30, 200, np.random.default_rng(3))))
    got = bootstrap(probabilities, targets, tuned, rare, resamples=200, seed=3)
    assert got.scores == intervals(probabilities, targets, tuned, rare, resamples=200, seed=3)
    expected = slowly(probabilities, targets, tuned, rare, weights)
    assert got.scores.keys() == expected.keys()
    assert np.isnan(expected["map_rare"]).any()  # resamples without a rare image are among them
    scores = all_scores(probabilities, targets, tuned, rare)
    for name, value in expected.items():
        assert got.scores[name] == pytest.approx(moved(value, scores[name]), abs=1e-9), name
        assert got.scores[name][0] <= scores[name] <= got.scores[name][1], name

    tables = []
    for weight in weights.astype(int):
        rows = np.repeat(np.arange(30), weight)
        tables.append(per_class(np.where(tuned[rows], 1.0, 0.0), targets[rows]))
        tables[-1]["average_precision"] = per_class(probabilities[rows], targets[rows])["average_precision"]
    table = per_class(np.where(tuned, 1.0, 0.0), targets)
    table["average_precision"] = per_class(probabilities, targets)["average_precision"]
    for column, ends in got.classes.items():
        value = np.stack([table[column] for table in tables])
        for k in range(6):
            defined = value[:, k][~np.isnan(value[:, k])]
            if len(defined) and not np.isnan(table[column][k]):
                assert ends[k] == pytest.approx(moved(defined, table[column][k]), abs=1e-9), (column, k)
            else:
                assert np.isnan(ends[k]).all()
    assert np.isnan(got.classes["average_precision"][3]).all()  # the absent class
    assert got.classes["f1"][3].tolist() == [0.0, 0.0]


def test_what_no_resample_has_is_left_out() -> None:
    got = bootstrap(np.full((4, 2), 0.2), np.zeros((4, 2)), np.zeros((4, 2)), np.zeros(2, bool), resamples=10).scores
    assert {"map", "auroc", "macro_f1_present", "macro_f1_rare", "map_rare"} & got.keys() == set()
    assert got["macro_f1"] == (0.0, 0.0)
    assert got["exact_match"] == (1.0, 1.0)


def test_decisions_of_the_table_may_be_others() -> None:
    probabilities, targets, tuned = drawn(50)
    nobody = np.zeros(6, bool)
    apart = bootstrap(probabilities, targets, tuned, nobody, table_NK=targets, resamples=50)
    same = bootstrap(probabilities, targets, tuned, nobody, resamples=50)
    assert apart.scores == same.scores
    assert apart.classes["recall"][0].tolist() == [1.0, 1.0]
    none = bootstrap(probabilities, targets, tuned, nobody, table_NK=np.zeros_like(targets), resamples=50)
    assert none.classes["recall"][0].tolist() == [0.0, 0.0]
    assert not np.array_equal(same.classes["f1"], none.classes["f1"])


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Scores of many draws from one population, whose own scores are known; ECE of a draw is not that of all images."""
    population = drawn(200_000, seed=1)
    truth = all_scores(*population, np.zeros(6, bool))
    held = dict.fromkeys(("micro_f1", "exact_match", "micro_f1_tuned", "macro_f1", "macro_f1_tuned", "map"), 0)
    rng = np.random.default_rng(2)
    for _ in range(200):
        rows = rng.integers(0, 200_000, 150)
        sample = [array[rows] for array in population]
        got = intervals(*sample, np.zeros(6, bool), resamples=200)
        for name in held:
            low, high = got[name]
            held[name] += low <= truth[name] <= high
    # average precision of 150 images, some of whose classes have ten: nearer to 86 %
    assert all((165 if name == "map" else 175) <= number <= 199 for name, number in held.items()), held


def test_the_same_seed_gives_the_same_interval_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, targets, tuned = drawn(60)
    whole = intervals(probabilities, targets, tuned, np.zeros(6, bool), resamples=70)
    monkeypatch.setattr("hpa_ray.metrics.intervals.BLOCK_CELLS", 60 * 7)
    blocks = intervals(probabilities, targets, tuned, np.zeros(6, bool), resamples=70)
    assert blocks.keys() == whole.keys()
    assert all(blocks[name] == pytest.approx(whole[name], abs=1e-12) for name in whole)
    assert intervals(probabilities, targets, tuned, np.zeros(6, bool), resamples=70, seed=1) != whole


def test_what_cannot_be_resampled_is_refused() -> None:
    probabilities, targets, tuned = drawn(5)
    with pytest.raises(ValueError, match="resamples=1"):
        intervals(probabilities, targets, tuned, np.zeros(6, bool), resamples=1)
    with pytest.raises(ValueError, match="rare classes"):
        intervals(probabilities, targets, tuned, np.zeros(5, bool))
    with pytest.raises(ValueError, match=r"predictions have shape \(4, 6\)"):
        intervals(probabilities, targets, tuned[:4], np.zeros(6, bool))


def test_a_validation_part_takes_seconds() -> None:
    """Processor time, several times what one idle core needs; a loop over resamples takes minutes."""
    probabilities, targets, tuned = drawn(4072, 28)
    start = time.process_time()
    intervals(probabilities, targets, tuned, np.zeros(28, bool))
    assert time.process_time() - start < 6.0
