"""What a study found, as one value, and its table of trials. Before: effects, finals. After: words, page.

The search ranks, on the validation part; the finals decide, on the test part.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from hpa_ray.tune.effects import Effect, effects, importance
from hpa_ray.tune.finals import SCORES, Final, Predictions, compare_finals
from hpa_ray.tune.space import Space
from hpa_ray.tune.study import Trial, finals, searched

# N images, K classes


class Cost(NamedTuple):
    hours: float
    unit: Literal["CPU", "GPU"]
    epochs: int
    saved: float
    """Share of the searched trials' epochs that were never computed, as they were stopped."""


class Answer(NamedTuple):
    trials: Sequence[Trial]
    space: Space
    metric: str
    larger: bool
    grace: int
    """Epochs that every trial was given; effects are of the best value within them."""
    rare_K: np.ndarray
    effects: list[Effect]
    importance: list[tuple[str, float]]
    class_effects: dict[int, list[Effect]]
    """By rare class: effects on its average precision."""
    finals: list[Final]
    winner: int | None
    """Chosen on the validation part; 0: the baseline itself."""
    cost: Cost

    def final(self, number: int | None) -> Final | None:
        return next((final for final in self.finals if final.number == number), None)


def find_answer(
    trials: Sequence[Trial],
    space: Space,
    *,
    metric: str,
    larger: bool,
    grace: int,
    rare_K: np.ndarray,
    class_ap: Mapping[int, np.ndarray] | None = None,
    predictions: Predictions | None = None,
    targets_NK: np.ndarray | None = None,
    unit: Literal["CPU", "GPU"] = "CPU",
    units_per_trial: float = 1.0,
    seed: int = 0,
    eligible: Collection[int] | None = None,
) -> Answer:
    """All that is to be said of a study, finished or not.

    class_ap: by number of the searched trial, the (K,) average precision on the validation part within `grace` epochs,
    NaN where undefined. predictions, targets_NK: of the finals, on the test part, all in one order of images. eligible:
    the searched trials that may win where there are no finals; None: all.
    """
    values = grace_values(trials, metric, larger=larger, grace=grace)
    class_effects = {}
    for k in np.flatnonzero(rare_K).tolist():
        of_class = {number: float(ap_K[k]) for number, ap_K in (class_ap or {}).items() if number in values}
        if any(math.isfinite(value) for value in of_class.values()):
            class_effects[k] = effects(trials, space, of_class, seed=seed)
    repeated = finals(trials)
    compared = [] if targets_NK is None else compare_finals(repeated, predictions or {}, targets_NK, rare_K, seed=seed)
    names = {trial.number: trial.overrides for trial in searched(trials)}
    return Answer(
        trials=trials,
        space=space,
        metric=metric,
        larger=larger,
        grace=grace,
        rare_K=rare_K,
        effects=effects(trials, space, values, seed=seed),
        importance=importance(trials, space, values),
        class_effects=class_effects,
        finals=[final._replace(overrides=names.get(final.number, final.overrides)) for final in compared],
        winner=winner(trials, metric, larger=larger, eligible=eligible),
        cost=cost(trials, unit=unit, units_per_trial=units_per_trial),
    )


def grace_values(trials: Sequence[Trial], metric: str, *, larger: bool, grace: int) -> dict[int, float]:
    """By number, the best value in the first `grace` epochs: all searched trials compared after the same work."""
    found = {}
    for trial in searched(trials):
        if trial.status != "failed" and trial.epochs >= grace and trial.parent is None:
            value = trial.best(metric, larger=larger, epochs=grace)
            if value is not None and math.isfinite(value):
                found[trial.number] = value
    return found


def winner(
    trials: Sequence[Trial], metric: str, *, larger: bool, eligible: Collection[int] | None = None
) -> int | None:
    """The final with the best mean over seeds on the validation part; never chosen by the test part.

    Without finals, the best searched trial, of those that are eligible. None if no trial has a value.
    """
    values: dict[int, list[float]] = {}
    for trial in finals(trials):
        value = trial.best(metric, larger=larger)
        if trial.final_of is not None and trial.status == "done" and value is not None:
            values.setdefault(trial.final_of, []).append(value)
    if not values:
        for trial in searched(trials):
            value = trial.best(metric, larger=larger)
            if trial.status != "failed" and value is not None and (eligible is None or trial.number in eligible):
                values[trial.number] = [value]
    means = {number: float(np.mean(some)) for number, some in sorted(values.items())}
    return (max if larger else min)(means, key=means.__getitem__) if means else None


def cost(trials: Sequence[Trial], *, unit: Literal["CPU", "GPU"], units_per_trial: float) -> Cost:
    hours = sum(trial.seconds for trial in trials) / 3600 * units_per_trial
    over = [trial for trial in searched(trials) if trial.status in ("done", "stopped")]
    most = max((trial.epochs for trial in over), default=0)
    due = sum((trial.until or most) - trial.begins for trial in over)
    saved = 1 - sum(trial.own_epochs for trial in over) / due if due else 0.0
    return Cost(hours, unit, sum(trial.own_epochs for trial in trials), saved)


def study_table(trials: Sequence[Trial], space: Space, metric: str, larger: bool) -> pa.Table:
    """A row per trial, for study.parquet; scores are those of the epoch that is best by `metric`."""
    whole, words = ("number", "final_of", "parent", "seed", "epochs", "best_epoch"), ("status", "reason", "overrides")
    numbers = ("seconds", "best", "macro_f1_tuned", "map", *(f"test_{name}" for name in SCORES))
    order = (
        "number",
        "final_of",
        "parent",
        "seed",
        "status",
        "reason",
        "epochs",
        "seconds",
        "best",
        "best_epoch",
        *numbers[2:],
    )
    names = (*order, *(dimension.key for dimension in space), "overrides")
    types = dict.fromkeys(whole, pa.int64()) | dict.fromkeys(words, pa.string()) | dict.fromkeys(numbers, pa.float64())
    rows = []
    for trial in trials:
        best = trial.best(metric, larger=larger)
        line = next((line for line in trial.lines if best is not None and line.get(metric) == best), {})
        rows.append(
            {
                **{name: getattr(trial, name) for name in order[:7]},
                "seconds": trial.seconds,
                "best": best,
                "best_epoch": line.get("epoch"),
                **{name: line.get(name) for name in ("macro_f1_tuned", "map")},
                **{f"test_{name}": (trial.test or {}).get(name) for name in SCORES},
                **{key: str(value) for key, value in trial.overrides.items()},
                "overrides": json.dumps(trial.overrides),
            }
        )
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    return pa.Table.from_pylist(rows, schema=schema)
