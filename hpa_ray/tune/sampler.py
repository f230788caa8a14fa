"""What to try next, as a function of what was tried. Before: space. After: search.

Every suggestion has a random state of its own, drawn from the seed and the number of the trial: a study that was killed
asks what it would have asked. TPE is Optuna's (multivariate; Bergstra et al. 2011, Falkner et al. 2018); what still
runs counts as bad meanwhile (constant liar), so that trials side by side are not the same one.
"""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from hpa_ray.config import Config
from hpa_ray.config.contradictions import contradictions
from hpa_ray.config.stages import stages_of
from hpa_ray.errors import InputError
from hpa_ray.tune.space import Dimension, Overrides, Space, combinations, single_changes, with_overrides

Sampler = Literal["tpe", "random", "grid", "one_factor"]
STARTUP_TRIALS = 8
"""Drawn at random before TPE learns from them."""
ATTEMPTS, TPE_ATTEMPTS = 100, 5
"""Suggestions that are thrown away, as they were tried before or exclude themselves, before there is nothing new; and
how many of them are TPE's, which may insist on the same."""


class Tried(NamedTuple):
    overrides: Overrides
    value: float | None
    """Larger is better; None while it runs, and where it failed."""
    epochs: int
    state: Literal["running", "done", "stopped", "failed"]


def suggest(
    space: Space, tried: Sequence[Tried], base: Config, *, sampler: Sampler, seed: int, number: int
) -> Overrides | None:
    """The settings of trial `number`, unlike those of any trial so far; None when nothing is left to try."""
    before = [one.overrides for one in tried]
    if sampler in ("grid", "one_factor"):
        return next((overrides for overrides in designed(space, base, sampler) if overrides not in before), None)
    for attempt in range(ATTEMPTS):
        state = seed_of(seed, number, attempt)
        by_tpe = sampler == "tpe" and attempt < TPE_ATTEMPTS
        overrides = _asked(space, tried, state) if by_tpe else drawn(space, state)
        if overrides not in before and is_possible(base, overrides):
            return overrides
    return None


def designed(space: Space, base: Config, sampler: Sampler) -> list[Overrides]:
    """All settings of a study that is laid out beforehand: every combination, or every single change."""
    settings = combinations(space) if sampler == "grid" else single_changes(space, base)
    return [overrides for overrides in settings if is_possible(base, overrides)]


def is_possible(base: Config, overrides: Overrides) -> bool:
    """Whether these settings, each right by itself, are right together."""
    try:
        changed = with_overrides(base, overrides)
        stages_of(changed)
        return not contradictions(changed)
    except InputError:
        return False


def drawn(space: Space, seed: int) -> Overrides:
    """Every dimension by itself: a choice at random, a range evenly or on a log scale."""
    rng = np.random.default_rng(seed)
    overrides: Overrides = {}
    for dimension in space:
        value = _draw(dimension, rng)  # drawn also where it is not active: later dimensions stay what they are
        if dimension.is_active(overrides):
            overrides[dimension.key] = value
    return overrides


def seed_of(*parts: int) -> int:
    """32 bits of a hash of some numbers."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")


def _draw(dimension: Dimension, rng: np.random.Generator) -> Any:
    if dimension.choices:
        return dimension.choices[int(rng.integers(len(dimension.choices)))]
    if dimension.is_whole and not dimension.log:
        return int(rng.integers(int(dimension.low), int(dimension.high) + 1))
    low, high = (np.log(end) if dimension.log else end for end in (dimension.low, dimension.high))
    value = float(rng.uniform(low, high))
    value = float(np.exp(value)) if dimension.log else value
    return round(value) if dimension.is_whole else value


def _asked(space: Space, tried: Sequence[Tried], seed: int) -> Overrides:
    import optuna  # a second, and other samplers need none of it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # for some years now
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
        )
    distributions = {dimension.key: _distribution(dimension) for dimension in space}
    states = optuna.trial.TrialState
    for one in tried:
        known = {key: value for key, value in one.overrides.items() if key in distributions}
        if one.state == "failed" or not all(_holds(distributions[key], value) for key, value in known.items()):
            continue
        state = {"running": states.RUNNING, "done": states.COMPLETE, "stopped": states.PRUNED}[one.state]
        if one.value is None:
            state = states.RUNNING
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=known,
                distributions={key: distributions[key] for key in known},
                value=one.value if state == states.COMPLETE else None,
                intermediate_values={one.epochs: one.value} if state == states.PRUNED else None,
            )
        )
    trial = study.ask()
    overrides: Overrides = {}
    for dimension in space:
        if not dimension.is_active(overrides):
            continue
        if dimension.choices:
            overrides[dimension.key] = trial.suggest_categorical(dimension.key, list(dimension.choices))
        elif dimension.is_whole:
            overrides[dimension.key] = trial.suggest_int(
                dimension.key, int(dimension.low), int(dimension.high), log=dimension.log
            )
        else:
            overrides[dimension.key] = trial.suggest_float(
                dimension.key, dimension.low, dimension.high, log=dimension.log
            )
    return overrides


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.is_whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _holds(distribution: Any, value: Any) -> bool:
    """Whether a value, perhaps of an earlier study, is one that this space has."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False
