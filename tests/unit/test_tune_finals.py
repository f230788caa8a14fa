"""Finals against the baseline: a planted gain is found, and none is called noise."""

import numpy as np
import pytest

from hpa_ray.metrics import score_predictions
from hpa_ray.tune.finals import compare_finals
from hpa_ray.tune.study import Trial


def finals_of(
    rng: np.random.Generator, shifts: dict[int, float], *, num_images: int = 300, num_seeds: int = 3, sd: float = 0.2
) -> tuple[list[Trial], dict[tuple[int, int], tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Finals whose seeds differ by `sd`, and which see the 6 classes better by their shift; images are shared."""
    target_NK = rng.random((num_images, 6)) < np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.04])
    hard_NK = rng.normal(size=target_NK.shape)
    trials, predictions = [], {}
    for of, shift in shifts.items():
        for seed in range(num_seeds):
            logit_NK = target_NK * (2.5 + shift) - 1.5 + hard_NK + rng.normal(0, 0.5, target_NK.shape)
            logit_NK += sd * rng.normal(size=6)
            probability_NK = 1 / (1 + np.exp(-logit_NK))
            predictions[of, seed] = (probability_NK >= 0.5, probability_NK)
            test = {"macro_f1_tuned": score_predictions(probability_NK >= 0.5, target_NK)["macro_f1"]}
            trials.append(Trial(100 + len(trials), {}, seed, of, "done", test=test))
    return trials, predictions, target_NK


RARE = np.array([False, False, False, False, True, True])


def test_finals_are_compared_as_a_slow_and_direct_computation_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpa_ray.metrics.intervals.MAX_BLOCK", 7)  # four whole blocks and a rest
    trials, predictions, target_NK = finals_of(np.random.default_rng(0), {0: 0.0, 7: 0.5, 9: 0.1}, num_images=60)
    found = compare_finals(trials, predictions, target_NK, RARE, seed=4, resamples=30)

    def f1(of: int, seed: int, rows: np.ndarray) -> np.ndarray:
        decision, target = predictions[of, seed][0][rows], target_NK[rows]
        return np.array([score_predictions(decision[:, [k]], target[:, [k]])["macro_f1"] for k in range(6)])

    rng = np.random.default_rng(4)
    rows_of = [np.arange(60), *(rng.integers(0, 60, 60) for _ in range(30))]
    means = {of: [np.mean([f1(of, seed, rows) for seed in range(3)], axis=0) for rows in rows_of] for of in (0, 7, 9)}
    pool = [(f1(of, seed, rows_of[0]) - means[of][0]) * np.sqrt(3 / 2) for of in (0, 7, 9) for seed in range(3)]
    for of in (0, 7, 9):
        for r, drawn_S in enumerate(rng.integers(0, len(pool), (30, 3)), 1):
            means[of][r] = means[of][r] + np.mean([pool[d] for d in drawn_S], axis=0)
    for final in found[1:]:
        against = np.array(means[final.number]) - np.array(means[0])
        rare = [
            np.mean([row[k] for k in (4, 5) if target_NK[rows, k].any()]) if target_NK[rows][:, 4:].any() else np.nan
            for row, rows in zip(against, rows_of, strict=True)
        ]
        for gain, values in [(final.overall, against.mean(axis=1)), (final.rare, np.array(rare))] + [
            (final.classes[k].f1_difference, against[:, k]) for k in range(6)
        ]:
            assert gain is not None
            expected = (values[0], *np.nanquantile(values[1:], [0.025, 0.975]))
            assert tuple(gain) == pytest.approx(expected, abs=1e-9)


def test_a_planted_gain_is_found_and_none_is_called_noise() -> None:
    trials, predictions, target_NK = finals_of(np.random.default_rng(1), {0: 0.0, 3: 2.0, 5: -1.0, 6: 0.0})
    base, better, worse, same = compare_finals(trials, predictions, target_NK, RARE, resamples=300)
    assert base.number == 0
    assert base.rare is None
    assert base.overall is None
    assert better.rare is not None
    assert better.rare.value > 0
    assert not better.rare.is_noise
    assert worse.overall is not None
    assert worse.overall.value < 0
    assert not worse.overall.is_noise
    assert same.overall is not None
    assert same.overall.is_noise
    expected = [test["macro_f1_tuned"] for t in trials if t.final_of == 3 and (test := t.test)]
    assert better.means["macro_f1_tuned"] == pytest.approx(np.mean(expected))
    assert better.stds["macro_f1_tuned"] == pytest.approx(np.std(expected, ddof=1))
    assert better.means["map"] is None
    # what the bootstrap calls the difference is the difference of the scores in the table
    assert base.means["macro_f1_tuned"] is not None
    assert better.overall is not None
    assert better.overall.value == pytest.approx(np.mean(expected) - base.means["macro_f1_tuned"])
    one = better.classes[4]
    assert one.num_images == target_NK[:, 4].sum()
    assert one.f1_difference is not None
    assert one.average_precision is not None
    assert base.classes[4].average_precision is not None
    assert one.average_precision_difference == pytest.approx(one.average_precision - base.classes[4].average_precision)


def test_finals_that_do_not_differ_are_called_noise() -> None:
    called = []
    for seed in range(40):
        trials, predictions, target_NK = finals_of(np.random.default_rng(seed), {0: 0.0, 1: 0.0, 2: 0.0}, sd=0.4)
        for final in compare_finals(trials, predictions, target_NK, RARE, resamples=200)[1:]:
            assert final.overall is not None
            assert final.rare is not None
            called += [not final.overall.is_noise, not final.rare.is_noise]
    assert np.mean(called) < 0.12  # with the seeds left out of the intervals it is about 0.4


def test_the_baseline_against_itself_has_no_difference() -> None:
    trials, predictions, target_NK = finals_of(np.random.default_rng(2), {0: 0.0}, num_seeds=1)
    trials.append(trials[0]._replace(number=200, final_of=8))
    predictions[8, 0] = predictions[0, 0]
    twin = compare_finals(trials, predictions, target_NK, RARE, resamples=50)[1]
    assert twin.overall == twin.rare == (0.0, 0.0, 0.0)
    assert twin.overall is not None
    assert twin.overall.is_noise


def test_classes_without_test_images_are_left_out() -> None:
    trials, predictions, target_NK = finals_of(np.random.default_rng(3), {0: 0.0, 3: 2.0})
    target_NK[:, 5] = False
    final = compare_finals(trials, predictions, target_NK, RARE, resamples=100)[1]
    assert final.classes[5] == (0, None, None, None, None, None)
    assert final.rare is not None
    assert final.classes[4].f1_difference is not None
    assert final.rare.value == pytest.approx(final.classes[4].f1_difference.value)
    target_NK[:, 4] = False
    final = compare_finals(trials, predictions, target_NK, RARE, resamples=100)[1]
    assert final.rare is None
    assert final.overall is not None


def test_finals_without_a_baseline_or_without_predictions() -> None:
    trials, predictions, target_NK = finals_of(np.random.default_rng(4), {3: 1.0})
    final = compare_finals(trials, predictions, target_NK, RARE, resamples=20)[0]
    assert final.rare is None
    assert final.overall is None
    assert final.classes[0].f1_difference is None
    assert final.classes[0].f1 is not None
    assert compare_finals(trials, {}, target_NK, RARE) == []
    failed = [trial._replace(status="failed") for trial in trials]
    assert compare_finals(failed, predictions, target_NK, RARE) == []
    with pytest.raises(ValueError, match=r"final of 3, seed 0: shapes .* expected"):
        compare_finals(trials, predictions, target_NK[1:], RARE)
