"""Trials with planted effects, for tests of what is found in a study."""

from typing import Any

import numpy as np

from hpa_ray.tune.effects import choice_of
from hpa_ray.tune.space import Dimension
from hpa_ray.tune.study import Trial

SPACE = (
    Dimension("loss.name", ("bce", "focal", "asl")),
    Dimension("loss.focal_gamma", (1, 2, 4), when=(("loss.name", ("focal",)),)),
    Dimension("augment.rare_only", (False, True)),
    Dimension("optim.lr", low=1e-4, high=1e-1, log=True),
)
TRUE = {
    ("loss.name", "bce"): -0.1,
    ("loss.name", "focal"): -0.1,
    ("loss.name", "asl"): 0.2,
    ("loss.focal_gamma", "1"): -0.15,
    ("loss.focal_gamma", "2"): 0.0,
    ("loss.focal_gamma", "4"): 0.15,
    ("augment.rare_only", "false"): 0.0,
    ("augment.rare_only", "true"): 0.0,
    ("optim.lr", "low"): -0.3,
    ("optim.lr", "middle"): 0.3,
    ("optim.lr", "high"): 0.0,
}
"""What is planted; the numbers of a dimension sum to zero."""


def drawn(rng: np.random.Generator, num_trials: int, *, likely: float = 0.5) -> list[Trial]:
    """The baseline and searched trials with random choices; `likely`: the first choice of loss.name."""
    trials = [Trial(0, {}, 0, status="done")]
    for number in range(1, num_trials + 1):
        overrides: dict[str, Any] = {}
        for dimension in SPACE:
            if not dimension.is_active(overrides):
                continue
            if dimension.key == "loss.name":
                overrides["loss.name"] = str(rng.choice(dimension.choices, p=[likely, *[(1 - likely) / 2] * 2]))
            elif dimension.choices:
                overrides[dimension.key] = dimension.choices[int(rng.integers(len(dimension.choices)))]
            else:
                overrides[dimension.key] = float(10 ** rng.uniform(-4, -1))
        trials.append(Trial(number, overrides, 0, status="done"))
    return trials


def planted(trial: Trial) -> float:
    return 0.5 + sum(TRUE[d.key, choice_of(d, trial.overrides[d.key])] for d in SPACE if d.key in trial.overrides)


def lines(*values: float | None, metric: str = "macro_f1_rare_tuned") -> tuple[dict[str, Any], ...]:
    return tuple({"epoch": epoch, metric: value} for epoch, value in enumerate(values, 1))
