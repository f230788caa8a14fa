"""Scores, thresholds and floor against scikit-learn and brute force."""

import csv
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from hpa_ray.labels import multi_hot, parse_labels
from hpa_ray.metrics import (
    Scores,
    constant_floor,
    cross_fit,
    per_class,
    score,
    score_constant,
    score_predictions,
    score_tuned,
    tune_thresholds,
)

REAL_TABLE = Path(__file__).parents[2] / ".." / "shared" / "hpa" / "train.csv"
derandomized = settings(derandomize=True, deadline=None, max_examples=60)

# few distinct values make ties; 0, 1 and float neighbours are the cuts at which a midpoint can fail
TIED = st.sampled_from([0.0, 5e-324, 0.25, 0.5, float(np.nextafter(0.5, 1)), 0.75, float(np.nextafter(1, 0)), 1.0])
PROBABILITY = TIED | st.floats(0, 1) | st.floats(0, 1, width=32)


@st.composite
def scored(draw: st.DrawFn, min_classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(1, 25), st.integers(min_classes, 4)))
    values = draw(st.sampled_from([TIED, PROBABILITY]))
    return draw(hnp.arrays(np.float64, shape, elements=values)), draw(
        hnp.arrays(np.uint8, shape, elements=st.integers(0, 1))
    )


def long_tail(num_rows: int, num_classes: int = 28, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Probabilities that know something of the truth, targets from frequent to very rare, row keys."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_rows, num_classes)) < np.geomspace(0.4, 0.002, num_classes)).astype(np.uint8)
    logits = 2.0 * targets - 2.5 + rng.normal(size=targets.shape)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), targets, [f"image-{row}" for row in range(num_rows)]


def near(value: Any, abs: float = 1e-9) -> Any:
    return pytest.approx(value, abs=abs, rel=0)


def macro_f1(scores: Scores) -> float:
    value = scores["macro_f1"]
    assert isinstance(value, float)
    return value


# scores


@derandomized
@given(scored(), st.lists(PROBABILITY, min_size=4, max_size=4))
def test_decisions_score_as_in_scikit_learn(data: tuple[np.ndarray, np.ndarray], thresholds: list[float]) -> None:
    probabilities, targets = data
    cut = np.array(thresholds[: targets.shape[1]])
    predicted = (probabilities >= cut).astype(np.uint8)
    got = score(probabilities, targets, cut)

    f1 = sk.f1_score(targets, predicted, average=None, zero_division=0)
    present = targets.any(axis=0)
    expected = {
        "macro_f1": sk.f1_score(targets, predicted, average="macro", zero_division=0),
        "micro_f1": sk.f1_score(targets, predicted, average="micro", zero_division=0),
        "precision_micro": sk.precision_score(targets, predicted, average="micro", zero_division=0),
        "recall_micro": sk.recall_score(targets, predicted, average="micro", zero_division=0),
        "exact_match": sk.accuracy_score(targets, predicted),
        "hamming_loss": sk.hamming_loss(targets, predicted),
        "num_present_classes": present.sum(),
    }
    assert {key: got[key] for key in expected} == near(expected)
    if present.any():
        assert got["macro_f1_present"] == near(f1[present].mean())
    else:
        assert got["macro_f1_present"] is None

    overlap, sample_f1 = [], []
    for y, z in ((set(np.flatnonzero(y)), set(np.flatnonzero(z))) for y, z in zip(targets, predicted, strict=True)):
        overlap.append(len(y & z) / len(y | z) if y | z else 1.0)
        sample_f1.append(2 * len(y & z) / (len(y) + len(z)) if y | z else 1.0)
    assert got["proportional_accuracy"] == near(np.mean(overlap))
    assert got["sample_f1"] == near(np.mean(sample_f1))

    table = per_class(probabilities, targets, cut)
    nan = {"average": None, "zero_division": np.nan}
    np.testing.assert_allclose(table["precision"], sk.precision_score(targets, predicted, **nan), atol=1e-9)
    np.testing.assert_allclose(table["recall"], sk.recall_score(targets, predicted, **nan), atol=1e-9)
    np.testing.assert_allclose(table["f1"], f1, atol=1e-9)
    np.testing.assert_array_equal(table["support"], targets.sum(axis=0))
    np.testing.assert_array_equal(table["predicted"], predicted.sum(axis=0))
    np.testing.assert_array_equal(table["threshold"], cut)


@derandomized
@given(scored())
def test_rankings_score_as_in_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, targets = data
    nan = float("nan")
    precisions, areas = [], []
    for truth, p in zip(targets.T, probabilities.T, strict=True):
        precisions.append(sk.average_precision_score(truth, p) if truth.any() else nan)
        areas.append(sk.roc_auc_score(truth, p) if truth.any() and not truth.all() else nan)
    table, got = per_class(probabilities, targets), score(probabilities, targets)
    for key, column, expected in (("map", "average_precision", precisions), ("auroc", "auroc", areas)):
        np.testing.assert_allclose(table[column], expected, rtol=0, atol=1e-9)
        defined = [value for value in expected if value == value]
        assert got[f"num_{key}_classes"] == len(defined)
        assert got[key] == (near(np.mean(defined)) if defined else None)


def test_long_tail_of_28_classes_scores_as_in_scikit_learn() -> None:
    probabilities, targets, _ = long_tail(4000)
    got = score(probabilities, targets)
    predicted = probabilities >= 0.5
    assert got["macro_f1"] == near(sk.f1_score(targets, predicted, average="macro", zero_division=0))
    assert got["map"] == near(sk.average_precision_score(targets, probabilities))
    assert got["auroc"] == near(sk.roc_auc_score(targets, probabilities))
    assert got["num_map_classes"] == got["num_auroc_classes"] == got["num_present_classes"] == 28
    assert got["sample_f1"] == near(sk.f1_score(targets, predicted, average="samples", zero_division=1))
    assert per_class(probabilities, targets)["f1"].mean() == near(got["macro_f1"])


def test_an_absent_class_counts_as_zero_and_is_named() -> None:
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.uint8)
    got = score(targets.astype(np.float32), targets)
    assert got["macro_f1"] == pytest.approx(2 / 3)
    assert (got["macro_f1_present"], got["num_present_classes"]) == (1.0, 2)
    assert (got["map"], got["num_map_classes"], got["auroc"], got["num_auroc_classes"]) == (1.0, 2, 1.0, 2)


def test_undefined_is_none_and_all_values_are_plain_numbers() -> None:
    got = score(np.zeros((3, 2)), np.zeros((3, 2), dtype=np.uint8))
    assert {key for key, value in got.items() if value is None} == {"macro_f1_present", "map", "auroc"}
    assert (got["macro_f1"], got["micro_f1"], got["proportional_accuracy"], got["sample_f1"]) == (0.0, 0.0, 1.0, 1.0)
    assert all(type(value) in (float, int) for value in got.values() if value is not None)
    decided = list(score_predictions(np.zeros((1, 2)), np.ones((1, 2))))
    assert list(got)[: len(decided)] == decided


def test_a_probability_at_the_threshold_is_predicted() -> None:
    assert score(np.array([[0.5, 0.49]]), np.array([[1, 0]]))["exact_match"] == 1.0
    third = np.array([[1 / 3]], dtype=np.float32)
    assert score(third, np.array([[1]]), third[0])["exact_match"] == 1.0


P, Y = np.full((2, 3), 0.5), np.ones((2, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((np.where([[1, 0, 0], [0, 0, 0]], np.nan, P), Y), "probability nan at row 0, class 0"),
        ((np.where([[0, 0, 0], [0, 0, 1]], np.inf, P), Y), "probability inf at row 1, class 2"),
        ((P + 0.6, Y), r"probability 1\.1 .* \[0, 1\]"),
        ((P - 0.6, Y), r"probability -0\.0999"),
        ((P[:1], Y), r"\(1, 3\), expected \(2, 3\)"),
        ((P[:, :2], Y), r"\(2, 2\), expected \(2, 3\)"),
        ((P[:0], Y[:0]), r"\(0, 3\)"),
        ((P[0], Y[0]), r"\(3,\)"),
        ((P, Y * 2), "hold 2"),
        ((P, Y, np.full(2, 0.5)), r"thresholds have shape \(2,\), expected \(3,\)"),
        ((P, Y, np.array([0.5, np.nan, 0.5])), "threshold nan"),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments: tuple[Any, ...], named: str) -> None:
    for function in (score, per_class):
        with pytest.raises(ValueError, match=named):
            function(*arguments)
    if len(arguments) == 2:
        with pytest.raises(ValueError, match=named):
            tune_thresholds(*arguments)
        with pytest.raises(ValueError, match=named):
            cross_fit(*arguments, [f"image-{row}" for row in range(len(arguments[1]))])


# thresholds


@derandomized
@given(scored(min_classes=1), st.sampled_from([np.float32, np.float64]))
def test_no_threshold_beats_the_tuned_one(data: tuple[np.ndarray, np.ndarray], dtype: type) -> None:
    targets = data[1]
    probabilities: np.ndarray = data[0].astype(dtype)
    tuned = tune_thresholds(probabilities, targets)
    assert ((tuned >= 0) & (tuned <= 1)).all()
    reached = per_class(probabilities, targets, tuned)["f1"]
    for k in range(targets.shape[1]):
        truth, p = targets[:, k], probabilities[:, k]
        assert reached[k] == near(max(2 * truth[p >= cut].sum() / ((p >= cut).sum() + truth.sum()) for cut in p))


@derandomized
@given(scored(min_classes=1))
def test_tuned_thresholds_do_not_depend_on_row_order(data: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, targets = data
    order = np.random.default_rng(0).permutation(len(targets))
    np.testing.assert_array_equal(
        tune_thresholds(probabilities, targets), tune_thresholds(probabilities[order], targets[order])
    )


@pytest.mark.parametrize(
    ("probabilities", "targets", "threshold"),
    [
        ([0.2, 0.6], [0, 1], 0.4),  # midway
        ([0.2, 0.6], [1, 1], 0.1),  # everything: midway to 0
        ([0.0, 0.6], [1, 1], 0.0),  # a probability of 0 must be predicted
        ([0.2, 0.6], [0, 0], 0.8),  # no positives: midway to 1
        ([0.8, 0.4, 0.2], [1, 0, 0], 0.6),
        ([0.9, 0.7, 0.5, 0.3], [1, 0, 0, 1], 0.8),  # F1 2/3 at both ends: the higher cut
    ],
)
def test_place_of_the_threshold(probabilities: list[float], targets: list[int], threshold: float) -> None:
    tuned = tune_thresholds(np.array([probabilities]).T, np.array([targets]).T)
    assert tuned == near([threshold])


def test_neighbouring_numbers_are_told_apart() -> None:
    probabilities = np.array([[0.5], [np.nextafter(0.5, 1)]])  # no number lies midway
    assert tune_thresholds(probabilities, np.array([[0], [1]])) == probabilities[1]


@pytest.mark.parametrize("folds", [2, 3])
def test_an_image_is_not_judged_by_thresholds_that_saw_it(folds: int) -> None:
    probabilities, targets, keys = long_tail(400, 6)
    before = cross_fit(probabilities, targets, keys, folds=folds)
    num_changed_elsewhere = 0
    for row in range(0, 400, 10):
        flipped = targets.copy()
        flipped[row] ^= 1
        changed = (cross_fit(probabilities, flipped, keys, folds=folds) != before).any(axis=1)
        assert not changed[row]
        num_changed_elsewhere += changed.sum()
    assert num_changed_elsewhere > 0  # the truth of an image does count, for the others


def test_fold_of_an_image_is_fixed_by_its_id() -> None:
    probabilities, targets, keys = long_tail(300, 6)
    order = np.random.default_rng(1).permutation(300)
    shuffled = cross_fit(probabilities[order], targets[order], [keys[row] for row in order])
    np.testing.assert_array_equal(shuffled, cross_fit(probabilities, targets, keys)[order])

    # "a" and "g" lie in different folds, in every process: each is judged by a threshold tuned on the other
    p, y = np.array([[0.6], [0.6]]), np.array([[0], [1]])
    assert cross_fit(p, y, ["g", "a"]).tolist() == [[True], [False]]
    # two rows of one image are in one fold; nothing is left to tune on, so the threshold is 0.5
    assert cross_fit(p, y, ["a", "a"]).tolist() == [[True], [True]]


def test_tuned_scores_of_noise_are_honest() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((600, 40)) < 0.01).astype(np.uint8)
    noise, keys = rng.random(targets.shape), [str(row) for row in range(600)]
    tuned_on_itself = macro_f1(score(noise, targets, tune_thresholds(noise, targets)))
    honest, floor = macro_f1(score_tuned(noise, targets, keys)), constant_floor(targets).macro_f1
    assert tuned_on_itself > 3 * floor  # what tuning makes of nothing
    assert abs(honest - floor) < 0.25 * (tuned_on_itself - floor)


def test_tuning_helps_where_there_is_something_to_find() -> None:
    probabilities, targets, keys = long_tail(4000)
    tuned, plain = score_tuned(probabilities, targets, keys), score(probabilities, targets)
    assert list(tuned) == list(plain)[: len(tuned)]
    assert macro_f1(tuned) > macro_f1(plain) + 0.02


def test_cross_fit_refuses_wrong_keys_and_folds() -> None:
    with pytest.raises(ValueError, match="1 row keys for 2 images"):
        cross_fit(P, Y, ["a"])
    with pytest.raises(ValueError, match="folds=1"):
        cross_fit(P, Y, ["a", "b"], folds=1)


# floor


@pytest.mark.parametrize("seed", range(6))
def test_no_fixed_label_set_beats_the_floor(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random((60, 8)) < rng.uniform(0, 0.5, size=8) ** 2).astype(np.uint8)
    targets[0] = [1] + [0] * 7
    floor = constant_floor(targets)
    for name, best, labels in (
        ("macro_f1", floor.macro_f1, floor.macro_labels),
        ("micro_f1", floor.micro_f1, floor.micro_labels),
    ):
        scores = {s: score_constant(targets, s)[name] for m in range(9) for s in itertools.combinations(range(8), m)}
        assert len(scores) == 256
        assert scores[labels] == near(best)
        assert max(value for value in scores.values() if value is not None) == near(best)
        assert not any(len(s) < len(labels) and value == near(best) for s, value in scores.items())


def test_floor_without_any_label_is_zero() -> None:
    floor = constant_floor(np.zeros((3, 4)))
    assert (floor.macro_f1, floor.macro_labels, floor.micro_f1, floor.micro_labels) == (0.0, (), 0.0, ())
    with pytest.raises(ValueError, match="class 4 is not one of 4"):
        score_constant(np.zeros((3, 4)), [4])


@pytest.mark.skipif(not REAL_TABLE.exists(), reason="the real label table ../shared/hpa/train.csv is absent")
def test_floor_of_the_real_table() -> None:
    with REAL_TABLE.open() as file:
        targets = multi_hot([parse_labels(row["Target"]) for row in csv.DictReader(file)])
    for labels, macro, micro in (((0,), 0.0209, 0.315), ((0, 25), 0.0359, 0.374), (tuple(range(28)), 0.0996, 0.110)):
        got = score_constant(targets, labels)
        assert got["macro_f1"] == near(macro, 6e-5)
        assert got["micro_f1"] == near(micro, 6e-4)
    floor = constant_floor(targets)
    assert floor.macro_labels == tuple(range(28))
    assert floor.macro_f1 == near(0.0996, 6e-5)
    assert floor.micro_labels == (0, 25)
    assert floor.micro_f1 == near(0.374, 6e-4)


# speed: processor time, several times what one idle core needs, a small part of what a loop over rows would


def test_validation_set_is_scored_in_a_blink() -> None:
    probabilities, targets, _ = long_tail(6000)
    start = time.process_time()
    score(probabilities, targets)
    assert time.process_time() - start < 1.0


def test_whole_training_set_is_tuned_in_a_second() -> None:
    probabilities, targets, keys = long_tail(30_000)
    start = time.process_time()
    score_tuned(probabilities, targets, keys)
    assert time.process_time() - start < 4.0
