"""A study folder -> the answer that is in it, without its data. Before: plan, answer. After: report.

What a study knew of its data and its start stands in study.json; everything else is of the trials' folders.
"""

from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config, load_config
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES, multi_hot
from hpa_ray.storage import read_bytes, read_parquet
from hpa_ray.tune.answer import Answer, find_answer
from hpa_ray.tune.finals import Predictions
from hpa_ray.tune.plan import Plan
from hpa_ray.tune.space import Dimension, Space
from hpa_ray.tune.study import StudyFolder, Trial, finals

FACTS = "study.json"


class Facts(BaseModel):
    """What find_answer and the page are given beside the trials."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    rare: list[Annotated[int, Field(ge=0, lt=NUM_CLASSES)]]
    unit: Literal["CPU", "GPU"]
    units_per_trial: float
    command: str
    reproduce: list[str]


class StoredStudy(NamedTuple):
    config: Config
    answer: Answer
    facts: Facts


def stored_study(uri: str) -> StoredStudy:
    """The study as its files tell it. Raises InputError, one line, for a file that is missing or damaged."""
    folder = StudyFolder(uri)
    facts = _facts(folder.folder)
    config = load_config(file=folder.folder.path("config.yaml"))
    space = _space(folder.folder)
    plan = Plan(config, space, folder, devices=facts.units_per_trial)
    trials = [plan.trials[number] for number in sorted(plan.trials)]
    predictions, targets_NK = _test_predictions(folder, trials)
    rare_K = np.zeros(NUM_CLASSES, bool)
    rare_K[facts.rare] = True
    scores = {trial.number: folder.class_scores(trial.number, "average_precision") for trial in trials}
    answer = find_answer(
        trials,
        space,
        metric=plan.cfg.metric,
        larger=plan.larger,
        grace=plan.grace_epochs,
        rare_K=rare_K,
        class_ap={number: of for number, of in scores.items() if of is not None},
        predictions=predictions,
        targets_NK=targets_NK,
        unit=facts.unit,
        units_per_trial=facts.units_per_trial,
        seed=config.run.seed,
        eligible=[trial.number for trial in plan.ranked()] or None,
    )
    return StoredStudy(config, answer, facts)


def _facts(folder: RunFolder) -> Facts:
    try:
        return Facts.model_validate_json(read_bytes(folder.path(FACTS)))
    except FileNotFoundError:
        raise InputError(
            f"{folder.path(FACTS)}: missing, as in a study that is not at its end or of an earlier version - run the "
            "same command again with run.resume=true"
        ) from None
    except ValidationError as error:
        raise InputError(f"{folder.path(FACTS)}: damaged - run the same command with run.resume=true") from error


def _space(folder: RunFolder) -> Space:
    uri = folder.path("space.yaml")
    try:
        return tuple(_dimension(tree) for tree in yaml.safe_load(read_bytes(uri)))
    except (FileNotFoundError, yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise InputError(f"{uri}: missing or damaged - run the same command again with run.resume=true") from None


def _dimension(tree: dict[str, Any]) -> Dimension:
    when = tuple((str(key), tuple(values)) for key, values in tree["when"])
    choices = tuple(tree["choices"])
    return Dimension(str(tree["key"]), choices, tree["low"], tree["high"], bool(tree["log"]), when)


def _test_predictions(folder: StudyFolder, trials: list[Trial]) -> tuple[Predictions | None, np.ndarray | None]:
    """Of every final that came to its end, with the truth that stands beside them; None without finals."""
    found: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    targets_NK = None
    for trial in finals(trials):
        if trial.status != "done" or trial.test is None or trial.final_of is None:
            continue
        uri = folder.run_folder(trial.number).path("predictions_test.parquet")
        try:
            _, decisions, probabilities = folder.test_predictions(trial.number)
            truth = read_parquet(read_bytes(uri)).sort_by("image_id")["truth"].to_pylist()
            targets_NK = multi_hot(truth)
        except (FileNotFoundError, pa.ArrowException, KeyError, TypeError, IndexError, ValueError) as error:
            raise InputError(f"{uri}: missing or damaged - delete this trial's folder and resume the study") from error
        found[trial.final_of, trial.seed] = (decisions, probabilities)
    return (found or None), targets_NK
