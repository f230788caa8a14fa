"""Which trial comes next, and when the study is over; knows nothing of what runs them. Before: study. After: search.

First all searched trials, of which number 0 has nothing changed; then the best of them and number 0 again, with other
seeds and on to the test part.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from hpa_ray.checkpoint.results import selectable
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.tune.generations import Member, offspring
from hpa_ray.tune.sampler import Tried, designed, seed_of, suggest
from hpa_ray.tune.space import Overrides, Space
from hpa_ray.tune.study import Status, StudyFolder, Trial, finals, searched

FLOOR_METRIC = "macro_f1_tuned"
Line = dict[str, Any]


class Plan:
    """All trials of a study, those of earlier starts among them; every step is on storage before it counts."""

    def __init__(
        self,
        config: Config,
        space: Space,
        folder: StudyFolder,
        *,
        devices: float,
        earlier: Sequence[Trial] = (),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """devices: GPUs of a trial, or CPUs where it has none. earlier: trials of other studies."""
        self.config, self.cfg, self.space, self.folder = config, config.tune, space, folder
        self.devices, self.earlier, self.now = devices, earlier, now
        self.larger = selectable()[self.cfg.metric]
        self.num_searched = num_searched(config, space)
        """Trials to search, the unchanged one among them."""
        self.trials = {trial.number: trial for trial in folder.trials()}
        self.live: set[int] = set()
        self.ended: list[int] = []
        """In this start."""
        self.began = now()
        self.exhausted = ""
        """Why no further trial is searched, if not for tune.trials."""

    # ---- what search asks

    def next(self) -> Trial | None:
        """A trial to start; None as long as others have to end first, or as the study is over."""
        for number, trial in self.trials.items():
            if not trial.is_over and number not in self.live:
                self.live.add(number)
                return trial
        new = self._next_searched() or self._next_final()
        if new is not None:
            self.folder.add(new)
            self.trials[new.number] = new
            self.live.add(new.number)
        return new

    @property
    def is_over(self) -> bool:
        if any(not trial.is_over for trial in self.trials.values()) or self._may_search():
            return False
        return not self._finals_left()

    @property
    def num_planned(self) -> int:
        """Trials of the study, as far as it is known now."""
        number = len(searched(self._list)) if self.exhausted else self.num_searched
        return number + min(self.cfg.finalists + 1, number) * self.cfg.repeats * bool(self.cfg.finalists)

    def heard(self, number: int, line: Line) -> None:
        """An epoch of a trial is done; one that is told again takes the place of the first."""
        trial = self.trials[number]
        before = tuple(one for one in trial.lines if one["epoch"] < line["epoch"])
        self.trials[number] = trial._replace(lines=(*before, line))

    def end(self, number: int, status: Status, *, reason: str = "", test: Line | None = None) -> Trial:
        trial = self.trials[number]
        trial = trial._replace(status=status, reason=reason, seconds=trial.own_s, test=test)
        self.folder.finish(trial)
        self.trials[number] = trial
        for done in [number] if trial.until is None else self._needed_no_more(trial):
            self.folder.run_folder(done).drop_checkpoints()
        self.live.discard(number)
        self.ended.append(number)
        return trial

    # ---- what became of them

    def value(self, trial: Trial, epochs: int | None = None) -> float | None:
        """The best of tune.metric, larger is better; None before there is any."""
        best = trial.best(self.cfg.metric, larger=self.larger, epochs=epochs)
        return best if best is None or self.larger else -best

    @property
    def grace_epochs(self) -> int:
        return grace_epochs(self.config)

    def ranked(self) -> list[Trial]:
        """Searched trials with all their epochs, the best first, those below tune.floor left out."""
        done = [trial for trial in self._at_the_end() if trial.status == "done" and self.value(trial) is not None]
        unchanged = next((trial for trial in reversed(searched(self._list)) if not trial.overrides), None)
        floor = self.cfg.floor * (self._overall(unchanged) or 0.0) if unchanged else 0.0
        good = [trial for trial in done if (self._overall(trial) or 0.0) >= floor]
        return sorted(good, key=lambda trial: (-(self.value(trial) or 0.0), trial.number))

    def _at_the_end(self) -> list[Trial]:
        """Searched trials that are to have all epochs: with generations, those of the last."""
        epochs = self.config.train.epochs
        return [trial for trial in searched(self._list) if trial.until is None or trial.until >= epochs]

    def device_hours(self) -> float:
        return self.devices * sum(trial.own_s if trial.lines else trial.seconds for trial in self._list) / 3600

    def speed(self, concurrency: int) -> dict[str, float | None]:
        """Of this start: trials per hour, and the share of the time in which so many processes trained."""
        hours = (self.now() - self.began) / 3600
        if not self.ended:
            return {"trials_per_hour": None, "busy_pct": None}
        busy = sum(self.trials[number].seconds for number in self.ended) / 3600
        return {
            "trials_per_hour": round(len(self.ended) / hours, 1),
            "busy_pct": round(100 * busy / hours / concurrency, 1),
        }

    @property
    def _list(self) -> list[Trial]:
        return [self.trials[number] for number in sorted(self.trials)]

    def _overall(self, trial: Trial) -> float | None:
        return trial.best(FLOOR_METRIC, larger=True)

    def _may_search(self) -> bool:
        if self.exhausted or finals(self._list) or len(searched(self._list)) >= self.num_searched:
            return False
        if self.cfg.hours and self.now() - self.began > 3600 * self.cfg.hours:
            self.exhausted = f"tune.hours = {self.cfg.hours:g} are over"
        elif self.cfg.device_hours and self.device_hours() > self.cfg.device_hours:
            self.exhausted = f"tune.device_hours = {self.cfg.device_hours:g} are used"
        return not self.exhausted

    def _next_searched(self) -> Trial | None:
        if not self._may_search():
            return None
        number = len(self.trials)
        if self.cfg.scheduler == "pbt":
            return self._next_member(number)
        overrides = self._suggestion(number) if number else {}
        if overrides is None:
            self.exhausted = "tune.space has nothing left to try"
            return None
        return Trial(number, overrides, self.config.run.seed)

    def _next_member(self, number: int) -> Trial | None:
        """Of a population; None while the generation before is not over."""
        size = self.num_searched // num_generations(self.config)
        generation, index = divmod(number, size)
        begins = generation * self.grace_epochs
        until = min(begins + self.grace_epochs, self.config.train.epochs)
        seed = self.config.run.seed
        if not generation:
            tried = [self._tried(trial) for trial in searched(self._list)]
            found = suggest(self.space, tried, self.config, sampler="random", seed=seed, number=number)
            return Trial(number, found or {} if number else {}, seed, until=until)
        before = searched(self._list)[-size - index :][:size]
        if not all(trial.is_over for trial in before):
            return None
        members = [Member(trial.number, trial.overrides, self._last(trial)) for trial in before]
        parent, overrides = offspring(self.space, members, index, self.config, epoch=begins, seed=seed_of(seed, number))
        lines = tuple(line for line in self.trials[parent].lines if line["epoch"] <= begins)
        return Trial(number, overrides, seed, lines=lines, parent=parent, begins=begins, until=until)

    def _needed_no_more(self, trial: Trial) -> list[int]:
        """Members that nobody goes on from any more, now that one has ended: their whole next generation is over."""
        size = self.num_searched // num_generations(self.config)
        generation = [one for one in searched(self._list) if one.begins == trial.begins]
        if len(generation) < size or not all(one.is_over for one in generation):
            return []
        before = [one.number for one in searched(self._list) if one.until == trial.begins]
        is_last = trial.until == self.config.train.epochs
        return before + [one.number for one in generation if is_last]

    def _last(self, trial: Trial) -> float | None:
        """tune.metric where a member's generation ended, larger is better; None if it failed."""
        value = trial.lines[-1].get(self.cfg.metric) if trial.status == "done" and trial.lines else None
        return None if value is None else float(value) if self.larger else -float(value)

    def _suggestion(self, number: int) -> Overrides | None:
        tried = [self._tried(trial) for trial in searched(self._list)]
        if self.cfg.sampler == "tpe":
            tried = [self._tried(trial) for trial in self.earlier if trial.is_over] + tried
        return suggest(
            self.space, tried, self.config, sampler=self.cfg.sampler, seed=self.config.run.seed, number=number
        )

    def _tried(self, trial: Trial) -> Tried:
        state = "running" if trial.status == "open" else trial.status
        return Tried(trial.overrides, self.value(trial), trial.epochs, state)

    def _finals_left(self) -> list[tuple[int, int]]:
        """Searched trial and seed of the finals that were not begun: a seed of each before the next seed."""
        best = [trial.number for trial in self.ranked() if trial.overrides][: self.cfg.finalists]
        if not best:
            return []
        chosen = best if self.trials[0].status == "failed" else [0, *best]
        begun = {(trial.final_of, trial.seed) for trial in finals(self._list)}
        seeds = [self.config.run.seed + 1 + repeat for repeat in range(self.cfg.repeats)]
        return [(number, seed) for seed in seeds for number in chosen if (number, seed) not in begun]

    def _next_final(self) -> Trial | None:
        if self._may_search() or any(not trial.is_over for trial in searched(self._list)):
            return None
        left = self._finals_left()
        if not left:
            return None
        number, seed = left[0]
        return Trial(len(self.trials), self.trials[number].overrides, seed, final_of=number)


def num_searched(config: Config, space: Space) -> int:
    """Trials to search: tune.trials, or all of a study that is laid out beforehand; as many in each generation."""
    if config.tune.scheduler == "pbt":
        return max(2, config.tune.trials // num_generations(config)) * num_generations(config)
    if config.tune.sampler in ("grid", "one_factor"):
        return min(config.tune.trials, len(designed(space, config, config.tune.sampler)) + 1)
    return config.tune.trials


def grace_epochs(config: Config) -> int:
    """Epochs of every trial, or of a generation."""
    return min(config.tune.grace_epochs or max(1, config.train.epochs // 4), config.train.epochs)


def num_generations(config: Config) -> int:
    return math.ceil(config.train.epochs / grace_epochs(config))


def check_metric(config: Config) -> None:
    """Raises InputError for a tune.metric that there is not."""
    import difflib

    names = selectable()
    if config.tune.metric not in names:
        close = difflib.get_close_matches(config.tune.metric, names, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(names))}"
        raise InputError(f"tune.metric = {config.tune.metric!r}: no score of this name - {hint}")
