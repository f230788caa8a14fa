"""`tune`: from a search space to an answer: what helps the rare classes, by how much, and a configuration."""

import shlex
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from hpa_ray import cluster
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli import train_verb
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, prepare_images, resolve, with_atlas_shards
from hpa_ray.config import Config, dump_config, without_credentials
from hpa_ray.errors import InputError
from hpa_ray.progress import console
from hpa_ray.storage import exists, join, write_parquet
from hpa_ray.stream import Data, open_data
from hpa_ray.stream.data import open_parts
from hpa_ray.tune import (
    Plan,
    Space,
    StudyFolder,
    Trial,
    as_words,
    check_metric,
    check_population,
    designed,
    finals,
    load_space,
    with_overrides,
)

MAY_DIFFER = (
    *("tune.finalists", "tune.repeats", "tune.hours", "tune.device_hours"),
    *("tune.concurrency", "tune.cpus", "tune.gpus", "tune.max_failures", "tune.warm_start"),
)
"""Keys that may have another value when a study is resumed: how long it is, and where it runs. Also tune.trials, but
not of a population: it says how large that is."""
ABLATION = (
    "tune.sampler=one_factor",
    "tune.scheduler=none",
    "tune.trials=10000",
    "tune.finalists=10000",
    "tune.floor=0",
)
"""Nothing is chosen or stopped: all settings come to the end and to the test part."""
SHOWN_BEST, SHOWN_LIVE = 5, 4
FLAGS = {"recipe": "--recipe", "file": "--config"}


def ablate(invocation: Invocation) -> dict[str, Any]:
    """A study laid out beforehand: every choice by itself, each trained with several seeds and compared in pairs."""
    return tune(invocation._replace(words=(*ABLATION, *invocation.words)))


def tune(invocation: Invocation) -> dict[str, Any]:
    began = time.monotonic()
    config = resolve(invocation)
    if config.run.resume and not config.run.name:
        raise InputError("run.resume=true needs run.name=NAME, the study to go on with")
    config, folder = train_verb.named(config, "tune")
    train_verb.check_settings(config)
    space = _checked(config)
    if has_data(config):
        open_parts(config)  # mistakes first: Ray takes seconds
    earlier = [trial for uri in config.tune.warm_start for trial in _earlier(uri)]
    may_differ = MAY_DIFFER if config.tune.scheduler == "pbt" else (*MAY_DIFFER, "tune.trials")
    with console.logging() as log:
        train_verb.claim(folder, config, dry=True, more=("tune",), may_differ=may_differ)
        several = config.train.fewest_workers if config.train.num_workers > 1 else 0
        cluster.start_ray(several, use_gpu=config.train.use_gpu)
        from hpa_ray.tune.search import concurrency_of, need_of, search  # imports Ray Tune, which takes seconds

        need = need_of(config)
        concurrency = concurrency_of(config, need)
        config = _with_shards(config, folder)
        data = open_data(config)
        _check_data(config, data)
        train_verb.claim(folder, config, more=("tune",), may_differ=may_differ)
        folder.write_text("space.yaml", yaml.safe_dump([dimension._asdict() for dimension in space], sort_keys=False))
        devices = (need.get("GPU") or need["CPU"]) * max(1, config.train.num_workers)
        plan = Plan(config, space, StudyFolder(folder.uri), devices=devices, earlier=earlier)
        _say_plan(plan, data, concurrency)
        try:
            with console.progress("tune", plan.num_planned, "trials") as progress:

                def tell(trial: Trial) -> None:
                    if trial.is_over:
                        console.say(_line_of(plan, trial))
                    over = sum(one.is_over for one in plan.trials.values())
                    live = [plan.trials[number] for number in sorted(plan.live)][:SHOWN_LIVE]
                    note = ", ".join(
                        f"trial {one.number} at epoch {one.epochs}/{plan.config.train.epochs}" for one in live
                    )
                    progress(over, note, plan.num_planned, _rows_of(plan))

                search(plan, data, need, concurrency, tell)
            if plan.cfg.finalists and not finals(list(plan.trials.values())):
                console.say(
                    f"note: no trial had all its epochs and {plan.cfg.floor:g} of the macro F1 with nothing changed "
                    "(tune.floor): none is trained again"
                )
            result = _answer(plan, config, data, folder, invocation, unit="GPU" if need.get("GPU") else "CPU")
        finally:
            folder.write_text("run.log", "\n".join(log) + "\n")
        result |= {"run": folder.uri, "wall_s": round(time.monotonic() - began, 1), **plan.speed(concurrency)}
        folder.write_json("summary.json", result)
    return result


def _checked(config: Config) -> Space:
    """The space of the study. Raises InputError with all that is wrong in the settings of the search."""
    problems: list[str] = []
    space: Space = ()
    try:
        check_metric(config)
    except InputError as error:
        problems += error.problems
    try:
        space = load_space(config.tune.space, config)
        if config.tune.scheduler == "pbt":
            check_population(space)
            if config.tune.sampler != "tpe":
                problems.append(f"tune.sampler = {config.tune.sampler} does nothing with tune.scheduler = pbt")
        elif config.tune.sampler in ("grid", "one_factor"):
            designed(space, config, config.tune.sampler)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(*problems)
    return space


def _earlier(uri: str) -> Iterator[Trial]:
    found = StudyFolder(uri)
    if not exists(found.run_folder(0).path("trial.json")):
        raise InputError(f"tune.warm_start: {uri}: no study folder - give one that `hpa-ray tune` wrote")
    yield from found.trials()


def _with_shards(config: Config, folder: RunFolder) -> Config:
    """With data.shards, which all trials share: nothing is decoded twice."""
    if config.data.shards:
        return config
    if not config.data.images:
        return with_atlas_shards(config)
    output = folder.path("shards")
    if not exists(join(output, "index.json")):
        prepare_images(config, output, num_workers=config.prepare.num_workers)
    return config.model_copy(
        update={"data": config.data.model_copy(update={"images": None, "labels": None, "shards": output})}
    )


def _check_data(config: Config, data: Data) -> None:
    """Raises InputError if tune.metric can not be had of the validation part."""
    there = data.rare_K & data.targets_NK[data.parts["val"]].any(axis=0)
    if "rare" in config.tune.metric and not there.any():
        raise InputError(
            f"tune.metric = {config.tune.metric}: the validation part has no image of a rare class (under 1 % of the "
            "training images) - use more data, another split, or tune.metric=macro_f1_tuned"
        )


def _say_plan(plan: Plan, data: Data, concurrency: int) -> None:
    for note in data.notes:
        console.say(f"note: {note}")
    cfg = plan.cfg
    sizes = ", ".join(f"{len(rows):,} {part}" for part, rows in data.parts.items())
    number, epochs = plan.num_searched, plan.config.train.epochs
    console.say(
        f"{number} trials of {epochs} epochs by {cfg.sampler} and {cfg.scheduler}, {concurrency} at a time, for "
        f"{cfg.metric} on {int(data.rare_K.sum())} rare classes; images: {sizes}"
    )
    if over := sum(trial.is_over for trial in plan.trials.values()):
        console.say(f"going on after {over} of {plan.num_planned} trials, and {len(plan.trials) - over} begun")


def _line_of(plan: Plan, trial: Trial) -> str:
    value = plan.value(trial)
    shown = "-" if value is None else f"{abs(value):.3f}"
    again = f" (trial {trial.final_of}, seed {trial.seed})" if trial.final_of is not None else ""
    how = {"done": "", "stopped": f" stopped after epoch {trial.epochs}", "failed": f" FAILED: {trial.reason}"}
    best = next(iter(plan.ranked()), None)
    of_best = f", best {abs(plan.value(best) or 0.0):.3f} of trial {best.number}" if best else ""
    return (
        f"trial {trial.number:>3}{again}  {plan.cfg.metric} {shown}  {trial.seconds:.0f} s"
        f"{how.get(trial.status, '')}{of_best}  {as_words(trial.overrides)}"
    )


def _rows_of(plan: Plan) -> list[tuple[str, ...]]:
    """A table of what runs, and below it of the best so far."""
    live = [plan.trials[number] for number in sorted(plan.live)]
    best = [trial for trial in plan.ranked() if trial.number not in plan.live][:SHOWN_BEST]
    rows: list[tuple[str, ...]] = [("trial", "epoch", plan.cfg.metric, "s", "settings")]
    for state, trials in (("runs", live), ("best", best)):
        for trial in trials:
            value = plan.value(trial)
            seconds = trial.lines[-1]["wall_s"] if trial.lines else 0.0
            settings = as_words(trial.overrides)
            again = f" of {trial.final_of}, seed {trial.seed}" if trial.final_of is not None else ""
            rows.append(
                (
                    f"{state} {trial.number}{again}",
                    f"{trial.epochs}/{plan.config.train.epochs}",
                    "-" if value is None else f"{abs(value):.3f}",
                    f"{seconds:.0f}",
                    settings,
                )
            )
    return rows


def _answer(
    plan: Plan, config: Config, data: Data, folder: RunFolder, invocation: Invocation, *, unit: Literal["CPU", "GPU"]
) -> dict[str, Any]:
    """Write study.html, study.json, study.parquet and best.yaml; say the answer."""
    from hpa_ray.explore.folder import FigureFolder  # matplotlib takes a second
    from hpa_ray.tune.answer import find_answer, study_table
    from hpa_ray.tune.page import study_page
    from hpa_ray.tune.stored import FACTS, Facts
    from hpa_ray.tune.words import in_words

    trials = [plan.trials[number] for number in sorted(plan.trials)]
    predictions, targets_NK = _test_predictions(plan, data)
    found = find_answer(
        trials,
        plan.space,
        metric=plan.cfg.metric,
        larger=plan.larger,
        grace=plan.grace_epochs,
        rare_K=data.rare_K,
        class_ap={
            trial.number: scores
            for trial in trials
            if (scores := plan.folder.class_scores(trial.number, "average_precision")) is not None
        },
        predictions=predictions,
        targets_NK=targets_NK,
        unit=unit,
        units_per_trial=plan.devices,
        seed=config.run.seed,
        eligible=[trial.number for trial in plan.ranked()] or None,
    )
    if found.winner is None:
        raise InputError(f"{folder.uri}: no trial came to its end - see the reasons above")
    winner = plan.trials[found.winner]
    best = with_overrides(config, winner.overrides)
    changes = {
        "run": best.run.model_copy(update={"name": None, "storage": None, "resume": False}),
        "train": best.train.model_copy(update={"select": plan.cfg.metric}),
        "tune": Config().tune,
    }
    folder.write_text("best.yaml", dump_config(best.model_copy(update=changes)))
    write_parquet(folder.path("study.parquet"), study_table(trials, plan.space, plan.cfg.metric, plan.larger))
    again = (f"hpa-ray train --config {folder.path('best.yaml')}",)
    given = [word for flag in ("recipe", "file") if (name := getattr(invocation, flag)) for word in (FLAGS[flag], name)]
    command = " ".join(
        [f"hpa-ray {invocation.verb}", *map(shlex.quote, without_credentials([*given, *invocation.words]))]
    )
    facts = Facts(
        rare=np.flatnonzero(data.rare_K).tolist(),
        unit=unit,
        units_per_trial=float(plan.devices),
        command=command,
        reproduce=list(again),
    )
    folder.write_json(FACTS, facts.model_dump())
    page = study_page(found, FigureFolder(folder.uri), name=config.run.name or "", command=command, reproduce=again)
    folder.write_text("study.html", page)
    words = in_words(found)
    console.say()
    for line in words:
        console.say(line)
    console.say(f"study: {folder.path('study.html')}")
    console.say(f"next: {again[0]}")
    final = found.final(found.winner)
    gain = final.rare if final else None
    return {
        "status": "done",
        "metric": plan.cfg.metric,
        "winner": found.winner,
        "overrides": winner.overrides,
        "test_gain_macro_f1_rare": None if gain is None else {"value": gain.value, "low": gain.low, "high": gain.high},
        "num_trials": len(trials),
        **{
            f"num_{status}": sum(trial.status == status for trial in trials) for status in ("done", "stopped", "failed")
        },
        "device_hours": round(plan.device_hours(), 4),
        "words": words,
    }


def _test_predictions(plan: Plan, data: Data) -> tuple[dict[tuple[int, int], Any] | None, np.ndarray | None]:
    """Of every final that came to its end, and the labels of the test part, all sorted by id; None without finals."""
    found, ids = {}, None
    for trial in plan.trials.values():
        if trial.final_of is not None and trial.status == "done" and trial.test is not None:
            ids, *found[trial.final_of, trial.seed] = plan.folder.test_predictions(trial.number)
    if ids is None:
        return None, None
    rows = pc.index_in(pa.array(ids, pa.string()), value_set=data.image_ids.cast(pa.string())).to_numpy()
    return {key: tuple(value) for key, value in found.items()}, data.targets_NK[rows]
