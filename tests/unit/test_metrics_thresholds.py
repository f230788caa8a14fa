"""Threshold rules against brute force, and that none of them makes something of nothing."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpa_ray.metrics import (
    RULES,
    Rule,
    apply_thresholds,
    constant_floor,
    cross_fit,
    fill_empty,
    fit_thresholds,
    score,
    score_predictions,
    tune_thresholds,
)

derandomized = settings(derandomize=True, deadline=None, max_examples=60)
TIED = st.sampled_from([0.0, 5e-324, 0.25, 0.5, float(np.nextafter(0.5, 1)), 0.75, float(np.nextafter(1, 0)), 1.0])


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 4)))
    values = draw(st.sampled_from([TIED, st.floats(0, 1)]))
    return draw(hnp.arrays(np.float64, shape, elements=values)), draw(
        hnp.arrays(np.uint8, shape, elements=st.integers(0, 1))
    )


def macro_f1(probabilities: np.ndarray, targets: np.ndarray, thresholds: np.ndarray | None = None) -> float:
    value = score_predictions(apply_thresholds(probabilities, thresholds), targets)["macro_f1"]
    assert isinstance(value, float)
    return value


@derandomized
@given(scored())
def test_no_single_threshold_beats_the_global_one(data: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, targets = data
    found = fit_thresholds("global", probabilities, targets)
    assert len(set(found.tolist())) == 1
    assert 0 <= found[0] <= 1
    best = max(macro_f1(probabilities, targets, np.full(targets.shape[1], cut)) for cut in np.unique(probabilities))
    assert macro_f1(probabilities, targets, found) == pytest.approx(best, abs=1e-9)


@derandomized
@given(scored())
def test_the_global_threshold_does_not_depend_on_row_order(data: tuple[np.ndarray, np.ndarray]) -> None:
    order = np.random.default_rng(0).permutation(len(data[0]))
    again = fit_thresholds("global", data[0][order], data[1][order])
    np.testing.assert_array_equal(fit_thresholds("global", *data), again)


@derandomized
@given(scored(), st.data())
def test_a_share_is_met_as_nearly_as_ties_allow(data: tuple[np.ndarray, np.ndarray], more: st.DataObject) -> None:
    probabilities, targets = data
    shares = more.draw(st.none() | hnp.arrays(np.float64, targets.shape[1], elements=st.floats(0, 1)))
    found = fit_thresholds("share", probabilities, targets, shares_K=shares)
    known = targets.mean(axis=0) if shares is None else shares
    for k, share in enumerate(known):
        wanted = max(1, round(share * len(targets))) if share > 0 else 0
        p = probabilities[:, k]
        possible = {int((p >= cut).sum()) for cut in [*p, 2.0]} if share > 0 else {0, int((p == 1.0).sum())}
        got = int((p >= found[k]).sum())
        if (p == 1.0).any():  # no threshold in [0, 1] leaves these out
            possible = {max(number, int((p == 1.0).sum())) for number in possible}
        assert abs(got - wanted) == min(abs(number - wanted) for number in possible)


def test_fixed_is_what_it_is_told() -> None:
    p, y = np.full((2, 3), 0.4), np.ones((2, 3))
    assert fit_thresholds("fixed", p, y, value=0.3).tolist() == [0.3] * 3
    assert fit_thresholds("fixed", p, y).tolist() == [0.5] * 3


def test_shrinkage_lies_between_the_own_and_the_global_threshold_by_the_number_of_positives() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((500, 4)) < [0.4, 0.1, 0.02, 0]).astype(np.uint8)
    probabilities = 1 / (1 + np.exp(2 - 3.0 * targets - rng.normal(size=targets.shape) - [0, 1, 2, 0]))
    own, one = tune_thresholds(probabilities, targets), fit_thresholds("global", probabilities, targets)
    np.testing.assert_array_equal(fit_thresholds("per_class", probabilities, targets, shrinkage=0), own)
    count = targets.sum(axis=0)
    mixed = fit_thresholds("per_class", probabilities, targets, shrinkage=float(count[1]))

    def logit(p: np.ndarray) -> np.ndarray:
        return np.log(p / (1 - p))

    weight = count / (count + count[1])
    np.testing.assert_allclose(logit(mixed), weight * logit(own) + (1 - weight) * logit(one), atol=1e-9)
    assert weight[1] == 0.5
    assert mixed[3] == pytest.approx(one[3])  # no positives: the global one
    far = fit_thresholds("per_class", probabilities, targets, shrinkage=1e6)
    np.testing.assert_allclose(far, one, rtol=2e-3)


@pytest.mark.parametrize(
    ("rule", "words", "told"),
    [
        ("best", {}, "no threshold rule 'best': use fixed, global, per_class, share"),
        ("per_class", {"shrinkage": -1.0}, "shrinkage=-1.0"),
        ("per_class", {"shrinkage": float("nan")}, "shrinkage=nan"),
        ("share", {"shares_K": np.array([0.5])}, "shares have shape"),
        ("share", {"shares_K": np.array([0.5, 1.5])}, "not within"),
        ("fixed", {"value": float("nan")}, "threshold nan"),
    ],
)
def test_what_cannot_be_fitted_is_refused(rule: Any, words: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fit_thresholds(rule, np.full((3, 2), 0.5), np.ones((3, 2)), **words)
    for known in RULES:
        with pytest.raises(ValueError, match=r"expected \(3, 2\)"):
            fit_thresholds(known, np.full((2, 2), 0.5), np.ones((3, 2)))


@pytest.mark.parametrize("rule", RULES)
def test_an_image_is_judged_by_what_others_say_under_every_rule(rule: Rule) -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random((200, 5)) < 0.2).astype(np.uint8)
    probabilities, keys = rng.random(targets.shape), [f"image-{row}" for row in range(200)]
    fit = partial(fit_thresholds, rule)
    before = cross_fit(probabilities, targets, keys, fit=fit)
    for row in range(0, 200, 20):
        flipped = targets.copy()
        flipped[row] ^= 1
        assert (cross_fit(probabilities, flipped, keys, fit=fit)[row] == before[row]).all()


def test_rows_without_a_prediction_get_their_most_probable_class() -> None:
    p = np.array([[0.1, 0.3, 0.3], [0.9, 0.2, 0.1], [0.0, 0.0, 0.0]])
    chosen = p >= 0.5
    assert fill_empty(p, chosen).tolist() == [[False, True, False], [True, False, False], [True, False, False]]
    assert not chosen[0].any()  # the argument stays as it was


NOISE_SETS = 40


def noise(seed: int) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Probabilities that know nothing but how frequent each class is, truth from frequent to very rare."""
    rng = np.random.default_rng(seed)
    share = np.geomspace(0.3, 0.008, 12)
    targets = (rng.random((300, 12)) < share).astype(np.uint8)
    logits = np.log(share / (1 - share)) + rng.normal(size=targets.shape)
    return 1 / (1 + np.exp(-logits)), targets, [f"{seed}-{row}" for row in range(300)], share


@pytest.mark.parametrize("rule", RULES)
def test_of_pure_noise_no_rule_reports_a_gain(rule: Rule) -> None:
    """At 0.5 noise predicts nothing and scores about 0, so that any rule beats it: the honest baseline is the better of
    threshold 0.5 and the best constant prediction, on the same images."""
    gains, flattered = [], []
    for seed in range(NOISE_SETS):
        probabilities, targets, keys, share = noise(seed)
        fit = partial(fit_thresholds, rule, shares_K=share)
        baseline = max(constant_floor(targets).macro_f1, macro_f1(probabilities, targets))
        honest = score_predictions(cross_fit(probabilities, targets, keys, fit=fit), targets)["macro_f1"]
        gains.append(float(honest or 0.0) - baseline)
        flattered.append(macro_f1(probabilities, targets, fit(probabilities, targets)) - baseline)
    error = np.std(gains, ddof=1) / np.sqrt(NOISE_SETS)
    assert np.mean(gains) <= 2 * error
    if rule == "per_class":  # judged on the images they were tuned on, thresholds per class do report a gain
        assert np.mean(flattered) > 0.02
        assert np.mean(flattered) > 10 * np.std(flattered, ddof=1) / np.sqrt(NOISE_SETS)


def test_where_there_is_something_to_find_every_tuned_rule_finds_it() -> None:
    rng = np.random.default_rng(0)
    share = np.geomspace(0.4, 0.01, 12)
    targets = (rng.random((4000, 12)) < share).astype(np.uint8)
    logits = np.log(share / (1 - share)) + 2.0 * targets + rng.normal(size=targets.shape)
    probabilities, keys = 1 / (1 + np.exp(-logits)), [str(row) for row in range(4000)]
    plain = score(probabilities, targets)["macro_f1"]
    assert plain is not None
    for rule in ("global", "per_class", "share"):
        found = cross_fit(probabilities, targets, keys, fit=partial(fit_thresholds, rule, shares_K=share))
        assert float(score_predictions(found, targets)["macro_f1"] or 0.0) > plain + 0.02, rule
