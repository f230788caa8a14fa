"""What choices do: planted effects come back, noise is called noise, and what can not be judged is not."""

from collections.abc import Sequence

import numpy as np
import pytest
from small_study import SPACE, TRUE, drawn, planted

from hpa_ray.tune.effects import Effect, choice_of, cuts, effects, importance
from hpa_ray.tune.space import Dimension
from hpa_ray.tune.study import Trial


def by_choice(rows: Sequence[Effect]) -> dict[tuple[str, str], Effect]:
    return {(row.key, row.choice): row for row in rows}


def test_planted_effects_come_back_exactly_without_noise() -> None:
    trials = drawn(np.random.default_rng(0), 60, likely=0.7)
    values = {trial.number: planted(trial) for trial in trials} | {0: -50.0}  # the baseline has no say in choices
    found = by_choice(effects(trials, SPACE, values))
    assert found.keys() == TRUE.keys()
    for name, true in TRUE.items():
        # the choice of a parent is not credited with what its children do, nor the other way round
        assert found[name].difference == pytest.approx(true, abs=2e-3), name
        assert found[name].num_trials == sum(
            choice_of(d, t.overrides[d.key]) == name[1]
            for t in trials
            for d in SPACE
            if d.key == name[0] in t.overrides
        )
    assert found["loss.name", "asl"].is_noise is False


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    inside = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        trials = drawn(rng, 60)
        values = {trial.number: planted(trial) + rng.normal(0, 0.1) for trial in trials}
        for name, effect in by_choice(effects(trials, SPACE, values, resamples=300)).items():
            if effect.low is not None and effect.high is not None:
                inside.append(effect.low <= TRUE[name] <= effect.high)
    assert 0.9 < np.mean(inside) < 0.99


@pytest.mark.parametrize("num_trials", [12, 40])
def test_noise_is_called_noise(num_trials: int) -> None:
    called = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        trials = drawn(rng, num_trials)
        values = {trial.number: float(rng.standard_t(3)) for trial in trials}
        called += [not effect.is_noise for effect in effects(trials, SPACE, values, resamples=300)]
    assert np.mean(called) < 0.075


def test_effects_are_the_same_for_the_same_seed_only() -> None:
    rng = np.random.default_rng(1)
    trials = drawn(rng, 30)
    values = {trial.number: float(rng.normal()) for trial in trials}
    assert effects(trials, SPACE, values) == effects(trials[::-1][::-1], SPACE, dict(values))
    assert effects(trials, SPACE, values) != effects(trials, SPACE, values, seed=1)


def test_choices_that_occur_never_or_once_are_not_judged() -> None:
    space = (Dimension("loss.name", ("bce", "focal", "asl")), Dimension("augment.rare_only", (False, True)))
    chosen = ["bce", "bce", "bce", "bce", "focal"]
    trials = [Trial(n, {"loss.name": name, "augment.rare_only": False}, 0) for n, name in enumerate(chosen, 1)]
    found = by_choice(effects(trials, space, dict(enumerate([1.0, 1.1, 0.9, 1.0, 9.0], 1))))
    never, once, often = (found["loss.name", name] for name in ("asl", "focal", "bce"))
    assert never == Effect("loss.name", "asl", 0, None, None, None, True)
    assert once.num_trials == 1
    assert once.difference == pytest.approx(4.0, abs=0.01)
    assert once.low is None
    assert once.high is None
    assert once.is_noise
    assert often.low is not None
    alone = found["augment.rare_only", "false"]  # all trials have it: there is nothing to compare it with
    assert alone.num_trials == 5
    assert alone.difference is None
    assert alone.is_noise


def test_constant_values_have_no_effects() -> None:
    trials = drawn(np.random.default_rng(2), 20)
    values = dict.fromkeys(range(21), 0.37)
    for effect in effects(trials, SPACE, values):
        assert effect.is_noise
        assert effect.difference is None or abs(effect.difference) < 1e-9
    assert importance(trials, SPACE, values) == []


def test_few_trials_and_trials_without_a_value() -> None:
    trials = drawn(np.random.default_rng(3), 10)
    for values in ({}, {3: 0.5}, {3: float("nan")}, {99: 0.5}):
        assert all(effect.is_noise and effect.difference is None for effect in effects(trials, SPACE, values))
        assert importance(trials, SPACE, values) == []
    rng = np.random.default_rng(3)
    many = drawn(rng, 40)
    values = {trial.number: planted(trial) for trial in many if trial.number % 3}
    assert sum(e.num_trials for e in effects(many, SPACE, values) if e.key == "loss.name") == len(values)
    finals = [Trial(100, {"loss.name": "asl"}, 1, 5, "done")]
    assert effects([*many, *finals], SPACE, values | {100: 99.0}) == effects(many, SPACE, values)


def test_importance_is_the_share_of_the_variance() -> None:
    space = tuple(Dimension(key, (0, 1)) for key in ("a", "b", "c"))
    trials = [Trial(n, {"a": n & 1, "b": n >> 1 & 1, "c": n >> 2 & 1}, 0) for n in range(64)]
    noise = np.random.default_rng(0).normal(0, 1e-3, 64)
    values = {n: 2.0 * (n & 1) + 1.0 * (n >> 1 & 1) + noise[n] for n in range(64)}
    shares = dict(importance(trials, space, values))
    assert list(shares) == ["a", "b", "c"]
    assert shares == pytest.approx({"a": 0.8, "b": 0.2, "c": 0.0}, abs=1e-4)


def test_importance_of_noise_is_nothing_on_average() -> None:
    shares = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        trials = drawn(rng, 40)
        found = importance(trials, SPACE, {trial.number: float(rng.normal()) for trial in trials})
        shares += [share for _, share in found]
    assert len(shares) == 30 * len(SPACE)
    assert np.mean(shares) < 0.02
    assert min(shares) >= 0.0


def test_thirds_of_a_range_are_cut_on_its_own_scale() -> None:
    assert cuts(Dimension("x", low=1e-4, high=1e-1, log=True)) == pytest.approx((1e-3, 1e-2))
    assert cuts(Dimension("x", low=0.0, high=3.0)) == pytest.approx((1.0, 2.0))
    assert [choice_of(Dimension("x", low=0, high=3), value) for value in (0, 1, 2, 3)] == [
        "low",
        "middle",
        "high",
        "high",
    ]
    assert [choice_of(Dimension("x", (False, 0.5)), value) for value in (False, 0.5)] == ["false", "0.5"]
