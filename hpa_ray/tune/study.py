"""A study on storage: which trials there are and what became of them. Before: checkpoint. After: plan, answer.

A study folder holds `trials/0000`, `trials/0001`, ...: run folders, as `train` writes them, with two files more.
`trial.json` is written when a trial is thought of, before anything of it is started, and `outcome.json` when it is
over: what is not over is gone on with, what is over is never done again.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.errors import InputError
from hpa_ray.storage import join, read_bytes, read_parquet, write_json

GRACE_CLASSES = "per_class_grace.csv"
"""per_class.csv as it is at the end of the epochs that every trial has."""
Status = Literal["open", "done", "stopped", "failed"]


class Trial(NamedTuple):
    """One run of a study, and what is known of it."""

    number: int
    overrides: dict[str, Any]
    seed: int
    final_of: int | None = None
    """The searched trial whose settings this one repeats, with a seed of its own and on to the test part."""
    status: Status = "open"
    """done: all epochs; stopped: by the scheduler, as others were better; failed: see reason."""
    reason: str = ""
    seconds: float = 0.0
    """Of computing, over all its starts that were not killed."""
    lines: tuple[dict[str, Any], ...] = ()
    """Of metrics.jsonl: a line per epoch."""
    test: dict[str, Any] | None = None
    """Scores on the test part, of finals only."""
    parent: int | None = None
    """The trial of the generation before whose state this one goes on from."""
    begins: int = 0
    """Epochs of it that are the parent's."""
    until: int | None = None
    """Epochs after which its generation ends; None: train.epochs."""

    @property
    def is_over(self) -> bool:
        return self.status != "open"

    @property
    def epochs(self) -> int:
        return int(self.lines[-1]["epoch"]) if self.lines else 0

    @property
    def own_epochs(self) -> int:
        return max(0, self.epochs - self.begins)

    @property
    def own_s(self) -> float:
        """Seconds of computing, without the parent's."""
        inherited = [line["wall_s"] for line in self.lines if line["epoch"] <= self.begins]
        return float(self.lines[-1]["wall_s"] - max(inherited, default=0.0)) if self.lines else 0.0

    def best(self, metric: str, *, larger: bool, epochs: int | None = None) -> float | None:
        """The best value so far, or of the first so many epochs; None where it is never defined."""
        values = [line.get(metric) for line in self.lines if epochs is None or line["epoch"] <= epochs]
        defined = [float(value) for value in values if value is not None]
        return (max if larger else min)(defined) if defined else None


class StudyFolder:
    """Where a study is stored; every write is whole or not at all."""

    def __init__(self, uri: str) -> None:
        self.folder = RunFolder(uri)

    @property
    def uri(self) -> str:
        return self.folder.uri

    def run_folder(self, number: int) -> RunFolder:
        return RunFolder(join(self.uri, "trials", f"{number:04d}"))

    def add(self, trial: Trial) -> None:
        """Note a trial before it is started."""
        noted = {"overrides": trial.overrides, "seed": trial.seed, "final_of": trial.final_of}
        if trial.until is not None:
            noted |= {"parent": trial.parent, "begins": trial.begins, "until": trial.until}
        write_json(self.run_folder(trial.number).path("trial.json"), noted)

    def finish(self, trial: Trial) -> None:
        """Note what became of a trial."""
        noted = {"status": trial.status, "reason": trial.reason, "seconds": trial.seconds, "test": trial.test}
        write_json(self.run_folder(trial.number).path("outcome.json"), noted)

    def trials(self) -> Iterator[Trial]:
        """All that were ever begun, by number. Raises InputError for one that can not be read."""
        number = 0
        found: list[Trial] = []
        while (noted := _read(self.run_folder(number), "trial.json", _Noted)) is not None:
            folder = self.run_folder(number)
            outcome = _read(folder, "outcome.json", _Outcome)
            try:
                lines = LINES.validate_python(folder.read_metrics())
            except ValidationError as error:
                raise InputError(f"{folder.path('metrics.jsonl')}: damaged - delete this trial's folder") from error
            if noted.parent is not None and not 0 <= noted.parent < number:
                raise InputError(f"{folder.path('trial.json')}: damaged - delete this trial's folder")
            if not lines and noted.parent is not None:  # thought of, and its parent's state not yet copied
                lines = [line for line in found[noted.parent].lines if line["epoch"] <= noted.begins]
            found.append(Trial(number, **dict(noted), **dict(outcome or {}), lines=tuple(lines)))
            yield found[-1]
            number += 1

    def class_scores(self, number: int, column: str) -> np.ndarray | None:
        """(K,) float64 of a trial after the epochs that all have, NaN where undefined; None if it has them not."""
        try:
            text = self.run_folder(number).read_text(GRACE_CLASSES)
        except FileNotFoundError:
            return None
        return np.array([float(row[column] or "nan") for row in csv.DictReader(io.StringIO(text))])

    def test_predictions(self, number: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Ids, (N, K) decisions and (N, K) probabilities of a final on the test part, sorted by id."""
        table = read_parquet(read_bytes(self.run_folder(number).path("predictions_test.parquet"))).sort_by("image_id")
        probabilities = table["probabilities"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        decisions = np.zeros(probabilities.shape, bool)
        for row, labels in enumerate(table["labels"].to_pylist()):
            decisions[row, labels] = True
        return table["image_id"].to_pylist(), decisions, probabilities


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Noted(_Strict):
    overrides: dict[str, str | bool | int | float]
    seed: int
    final_of: int | None
    parent: int | None = None
    begins: int = 0
    until: int | None = None


class _Outcome(_Strict):
    status: Status
    reason: str
    seconds: float
    test: dict[str, str | bool | int | float | None] | None


def _has_its_numbers(line: dict[str, int | float | None]) -> dict[str, int | float | None]:
    if not isinstance(line.get("epoch"), int) or line.get("wall_s") is None:
        raise ValueError("no epoch or wall_s")
    return line


Line = Annotated[dict[str, int | float | None], AfterValidator(_has_its_numbers)]
LINES = TypeAdapter(list[Line], config=ConfigDict(strict=True, allow_inf_nan=False))
S = TypeVar("S", bound=_Strict)


def _read(folder: RunFolder, name: str, kind: type[S]) -> S | None:
    """Raises InputError if the file does not hold what it should."""
    try:
        return kind.model_validate_json(read_bytes(folder.path(name)))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise InputError(f"{folder.path(name)}: damaged - delete this trial's folder") from error


def searched(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.final_of is None]


def finals(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.final_of is not None]
