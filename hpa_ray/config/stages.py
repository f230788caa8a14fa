"""Settings that change during a run: one configuration per stage. Before: loader. After: loop."""

import itertools
from typing import NamedTuple

from hpa_ray.config.contradictions import contradictions
from hpa_ray.config.loader import load_config
from hpa_ray.config.sections import Config
from hpa_ray.errors import InputError

SECTIONS, KEYS = ("loss.", "sampling.", "augment."), ("optim.lr", "optim.clip_norm")
"""What the weights and the optimizer's state do not depend on."""


class Stage(NamedTuple):
    until: int
    """Epochs of the run that are over when it ends."""
    config: Config


def may_change(key: str) -> bool:
    """Whether a setting can have another value later in a run."""
    return key in KEYS or key.startswith(SECTIONS)


def stages_of(config: Config) -> list[Stage]:
    """The stages of a run in their order, one where nothing changes. Raises InputError with all that is wrong."""
    problems: list[str] = []
    words_of: dict[int, list[str]] = {}
    for word in config.train.stages:
        begins, _, setting = word.partition(":")
        key = setting.partition("=")[0]
        if not begins.isdecimal() or "=" not in setting:
            problems.append(f"train.stages: {word!r:.100} - write such as 4:loss.name=asl, from the end of epoch 4 on")
        elif not 0 < int(begins) < config.train.epochs:
            problems.append(f"train.stages: {word!r:.100} - the run has {config.train.epochs} epochs")
        elif not may_change(key):
            problems.append(f"train.stages: {word!r:.100} - only loss, sampling, augment, optim.lr and optim.clip_norm")
        else:
            words_of.setdefault(int(begins), []).append(setting)
    if problems:
        raise InputError(*problems)
    ends = [*sorted(words_of), config.train.epochs]
    stages = [Stage(ends[0], config)]
    for begin, until in itertools.pairwise(ends):
        try:
            changed = load_config(words_of[begin], base=stages[-1].config)
        except InputError as error:
            problems += [f"train.stages, after epoch {begin}: {problem}" for problem in error.problems]
            continue
        problems += [f"train.stages, after epoch {begin}: {problem}" for problem in contradictions(changed)]
        stages.append(Stage(until, changed))
    if problems:
        raise InputError(*problems)
    return stages
