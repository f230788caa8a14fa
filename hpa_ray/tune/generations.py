"""Population based training in generations: who goes on from whose weights, and with what. Before: space. After: plan.

Jaderberg et al. 2017: members of the best quarter of a generation take the places of the worst quarter, weights and
all, with changed settings; the others go on as they are. What a member becomes is a schedule of settings, train.stages,
which any training can repeat.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpa_ray.config import Config
from hpa_ray.config.stages import may_change
from hpa_ray.errors import InputError
from hpa_ray.tune.sampler import ATTEMPTS, drawn, is_possible, seed_of
from hpa_ray.tune.space import Dimension, Overrides, Space, as_value, as_word

STAGES = "train.stages"
SHARE = 0.25
"""Of a generation that is replaced, and that replaces it."""
RESAMPLED = 0.25
"""Probability that a setting is drawn anew rather than changed a little."""
FACTORS = (0.8, 1.2)


class Member(NamedTuple):
    number: int
    overrides: Overrides
    """As a trial has them: how it began, and train.stages."""
    value: float | None
    """Larger is better; None: it failed."""


def check_population(space: Space) -> None:
    """Raises InputError for settings that can not change on the way."""
    if fixed := [one.key for one in space if not may_change(one.key)]:
        raise InputError(
            f"tune.scheduler = pbt: {', '.join(fixed)} can not change during a training - take them out of the space "
            "(loss, sampling, augment, optim.lr and optim.clip_norm can), or choose another tune.scheduler"
        )


def current(overrides: Overrides) -> Overrides:
    """The settings of a member after all its stages."""
    settings = {key: value for key, value in overrides.items() if key != STAGES}
    for word in filter(None, str(overrides.get(STAGES, "")).split(",")):
        key, _, value = word.partition(":")[2].partition("=")
        settings[key] = as_value(value)
    return settings


def offspring(
    space: Space, generation: Sequence[Member], index: int, base: Config, *, epoch: int, seed: int
) -> tuple[int, Overrides]:
    """Number of the parent and the overrides of member `index` of the next generation, which begins after `epoch`.

    A member with nothing changed stays so: it is what the others are measured against.
    """
    member = generation[index]
    if member.value is not None and not (member.overrides and _is_replaced(generation, index)):
        return member.number, member.overrides
    donors = _ranked(generation)[: _quarter(generation)]
    if not donors or not member.overrides:
        return member.number, member.overrides
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng(seed_of(seed, attempt))
        donor = donors[int(rng.integers(len(donors)))]
        overrides = _changed(space, donor.overrides, rng, base, epoch=epoch)
        if is_possible(base, overrides):
            return donor.number, overrides
    return donors[0].number, donors[0].overrides


def _ranked(generation: Sequence[Member]) -> list[Member]:
    there = [member for member in generation if member.value is not None]
    return sorted(there, key=lambda member: (-(member.value or 0.0), member.number))


def _quarter(generation: Sequence[Member]) -> int:
    return max(1, math.floor(SHARE * len(generation)))


def _is_replaced(generation: Sequence[Member], index: int) -> bool:
    ranked = [member for member in _ranked(generation) if member.overrides]
    return generation[index] in ranked[max(1, len(ranked) - _quarter(generation)) :]


def _changed(space: Space, overrides: Overrides, rng: np.random.Generator, base: Config, *, epoch: int) -> Overrides:
    """The overrides of a donor with a stage more."""
    before = current(overrides)
    fresh = drawn(space, int(rng.integers(2**32)))
    settings: Overrides = {}
    for dimension in space:
        anew, factor = rng.random() < RESAMPLED, FACTORS[int(rng.integers(2))]
        if not dimension.is_active(settings):
            continue
        known = before.get(dimension.key)
        if known is None or anew:
            settings[dimension.key] = fresh.get(dimension.key, _any(dimension))
        else:
            settings[dimension.key] = _nudged(dimension, known, factor)
    words = [f"{epoch}:{key}={as_word(value)}" for key, value in settings.items() if before.get(key) != value]
    stages = ",".join(filter(None, [str(overrides.get(STAGES, "")), *words]))
    return {**overrides, STAGES: stages} if words else dict(overrides)


def _any(dimension: Dimension) -> object:
    return dimension.choices[0] if dimension.choices else dimension.low


def _nudged(dimension: Dimension, value: object, factor: float) -> object:
    if dimension.choices or not isinstance(value, (int, float)):
        return value
    moved = min(max(value * factor, dimension.low), dimension.high)
    return round(moved) if dimension.is_whole else float(f"{moved:.4g}")
