"""A thousand random and degenerate cases: every score that scikit-learn has is what scikit-learn says."""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import sklearn
from sklearn import metrics as sk

from hpa_ray.metrics import larger_is_better, per_class, precision_recall, score, score_predictions

NUM_CASES = 1000
KINDS = ("random", "absent", "never", "zero", "one", "ties", "row", "certain", "tail", "constant")


class Case(NamedTuple):
    kind: str
    probabilities: np.ndarray
    targets: np.ndarray


def cases() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for number in range(NUM_CASES):
        kind = KINDS[number % len(KINDS)]
        shape = (1 if kind == "row" else int(rng.integers(2, 30)), int(rng.integers(2, 5)))
        probabilities, targets = rng.random(shape), (rng.random(shape) < rng.random()).astype(np.uint8)
        k = int(rng.integers(shape[1]))
        if kind == "absent":
            targets[:, k] = 0
        elif kind == "never":
            probabilities[:, k] *= 0.49
        elif kind in ("zero", "one"):
            rows = slice(None) if rng.random() < 0.3 else rng.random(shape[0]) < 0.5
            targets[rows] = kind == "one"
        elif kind == "ties":
            probabilities = rng.choice([0.0, 0.25, 0.5, 1.0], shape)
        elif kind == "certain":
            probabilities = rng.integers(0, 2, shape).astype(float)
        elif kind == "tail":
            targets = (rng.random(shape) < np.geomspace(0.5, 0.02, shape[1])).astype(np.uint8)
            probabilities = 1 / (1 + np.exp(-(3.0 * targets - 3 + rng.normal(size=shape))))
        elif kind == "constant":
            probabilities[:] = rng.choice([0.0, 0.3, 0.5, 1.0])
        yield Case(kind, probabilities, targets)


def expected(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Scores by scikit-learn; what it does not know or counts otherwise is put together from its numbers."""
    predicted = (probabilities >= 0.5).astype(np.uint8)
    of_classes = sk.precision_recall_fscore_support(targets, predicted, average=None, zero_division=0)[:3]
    names = ("precision_macro", "recall_macro", "macro_f1")
    found: dict[str, Any] = {name: value_K.mean() for name, value_K in zip(names, of_classes, strict=True)}
    for average, names in (
        ("micro", ("precision_micro", "recall_micro", "micro_f1")),
        ("samples", ("sample_precision", "sample_recall", "sample_f1")),
    ):
        values = sk.precision_recall_fscore_support(targets, predicted, average=average, zero_division=0)[:3]
        found |= dict(zip(names, values, strict=True))
    neither = float((~targets.any(axis=1) & ~predicted.any(axis=1)).mean())
    for name in ("sample_precision", "sample_recall", "sample_f1"):
        found[name] += neither
    found["exact_match"] = sk.accuracy_score(targets, predicted)
    found["hamming_loss"] = sk.hamming_loss(targets, predicted)
    found["proportional_accuracy"] = neither + sk.jaccard_score(targets, predicted, average="samples", zero_division=0)
    found["coverage_error"] = sk.coverage_error(targets, probabilities)
    found["ranking_loss"] = sk.label_ranking_loss(targets, probabilities)
    found["label_ranking_average_precision"] = sk.label_ranking_average_precision_score(targets, probabilities)
    found["brier"] = sk.brier_score_loss(targets.ravel(), probabilities.ravel(), pos_label=1)
    there, both = targets.any(axis=0), targets.any(axis=0) & ~targets.all(axis=0)
    if there.any():
        found["map"] = sk.average_precision_score(targets[:, there], probabilities[:, there])
        found["macro_f1_present"] = of_classes[2][there].mean()
    if both.any():
        found["auroc"] = sk.roc_auc_score(targets[:, both], probabilities[:, both])
    return {name: float(value) for name, value in found.items()}


def test_a_thousand_cases_score_as_in_scikit_learn() -> None:
    seen, kinds = set(), set()
    with sklearn.config_context(skip_parameter_validation=True, assume_finite=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true|The number of unique classes")
        for case in cases():
            got = score(case.probabilities, case.targets)
            wanted = expected(case.probabilities, case.targets)
            of_both = {name: got[name] for name in wanted}
            assert of_both == pytest.approx(wanted, abs=1e-9, rel=0), case
            undefined = {name for name, value in got.items() if value is None}
            assert undefined == {"map", "auroc", "macro_f1_present"} - wanted.keys(), case
            seen |= wanted.keys()
            kinds.add(case.kind)
    assert kinds == set(KINDS)
    own = {"ece", "num_map_classes", "num_auroc_classes", "num_present_classes"}
    assert seen | own == set(got)  # no score goes without an oracle; ece has one of its own


def test_curves_are_those_of_scikit_learn() -> None:
    num_drawn = 0
    for case in cases():
        for p, y in (
            (case.probabilities[:, 0], case.targets[:, 0]),
            (case.probabilities.ravel(), case.targets.ravel()),
        ):
            if not y.any():
                with pytest.raises(ValueError, match="no recall to draw"):
                    precision_recall(p, y)
                continue
            for ours, theirs in zip(precision_recall(p, y), sk.precision_recall_curve(y, p), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
            num_drawn += 1
    assert num_drawn > NUM_CASES


@pytest.mark.parametrize("name", sorted(score(np.eye(2), np.eye(2))))
def test_every_score_knows_which_direction_is_better(name: str) -> None:
    if name.startswith("num_"):
        return
    rng = np.random.default_rng(0)
    targets = (rng.random((50, 6)) < 0.3).astype(np.uint8)
    right = np.where(targets, 0.9, 0.1) + rng.uniform(-0.1, 0.1, targets.shape)
    good, bad = score(right, targets)[name], score(1 - right, targets)[name]
    assert good is not None
    assert bad is not None
    assert (good > bad) == larger_is_better(name)
    assert larger_is_better(f"{name}_tuned") == larger_is_better(name)


def test_the_conventions_of_images_without_and_with_all_labels() -> None:
    none, every, p = np.zeros((1, 3)), np.ones((1, 3)), np.array([[0.9, 0.1, 0.1]])
    names = ("coverage_error", "ranking_loss", "label_ranking_average_precision")
    assert [score(p, none)[name] for name in names] == [0.0, 0.0, 1.0]
    assert [score(p, every)[name] for name in names] == [3.0, 0.0, 1.0]
    nothing = score_predictions(np.zeros((1, 3)), none)
    assert (nothing["sample_precision"], nothing["sample_recall"]) == (1.0, 1.0)
    too_much = score_predictions(every, none)
    assert (too_much["sample_precision"], too_much["sample_recall"]) == (0.0, 0.0)
    missed = score_predictions(none, every)
    assert (missed["sample_precision"], missed["sample_recall"]) == (0.0, 0.0)
    assert (missed["precision_macro"], missed["recall_macro"]) == (0.0, 0.0)


def test_the_table_of_classes_holds_the_macro_scores() -> None:
    rng = np.random.default_rng(1)
    probabilities, targets = rng.random((200, 5)), (rng.random((200, 5)) < 0.3).astype(np.uint8)
    table, got = per_class(probabilities, targets), score(probabilities, targets)
    assert table["precision"].mean() == pytest.approx(got["precision_macro"])
    assert table["recall"].mean() == pytest.approx(got["recall_macro"])
