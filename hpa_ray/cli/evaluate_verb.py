"""`evaluate`: how well a model, or several as one, do on a part of the data."""

import os
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from hpa_ray.checkpoint.judge import THRESHOLDS_FILE
from hpa_ray.checkpoint.model_file import MODEL_FILE, save_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import resolve
from hpa_ray.config import Config, dump_config, load_config
from hpa_ray.errors import InputError
from hpa_ray.evaluate import evaluate as evaluate_model
from hpa_ray.metrics import RULES
from hpa_ray.predict import Ensemble, ensemble_of, open_members
from hpa_ray.progress import console
from hpa_ray.storage import absolute, join
from hpa_ray.stream import Data, open_data


def evaluate(invocation: Invocation) -> dict[str, Any]:
    named = load_config(invocation.words, recipe=invocation.recipe, file=invocation.file).evaluate.run
    runs = [absolute(run) for run in named]
    if not runs:
        raise InputError("evaluate needs evaluate.run=RUN_FOLDER (or a model.safetensors)")
    members = open_members(runs)
    trained = trained_with(members[0].uri, members[0].shipped.card.config)
    config = resolve(invocation, base=trained)
    ensemble = ensemble_of(members, config.inference, console.say)
    _check_thresholds(config, trained, len(members))
    part, several = config.evaluate.part, len(ensemble.members) > 1
    if several and not any(word.startswith("data.") for word in invocation.words) and not invocation.file:
        _check_unseen(ensemble, part)
    if config.evaluate.output is None and several:
        raise InputError("evaluate needs evaluate.output=FOLDER where evaluate.run stands for several models")
    data, rows = open_part(config, ensemble, "evaluate.part", part)
    run = runs[0]
    folder = RunFolder(config.evaluate.output or folder_of(run))

    def store(thresholds: np.ndarray) -> None:
        text = dump_config(trained.model_copy(update={"thresholds": config.thresholds}))
        shipped = members[0].shipped
        card = shipped.card.model_copy(update={"thresholds": tuple(thresholds.tolist()), "config": text})
        save_model(run if run.endswith(".safetensors") else join(run, MODEL_FILE), shipped.model, card)

    with console.progress("evaluate", len(rows)) as show:
        summary = evaluate_model(
            config,
            ensemble,
            data,
            rows,
            part=part,
            folder=folder,
            stored=trained.thresholds.rule,
            store=store if config.evaluate.store_thresholds else None,
            on_progress=show,
        )
    for name, value in summary.items():
        if name not in ("intervals", "inference"):
            ends = summary["intervals"].get(name)
            sure = f"   {ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
            console.say(f"{name:<34}{value:.4f}{sure}" if isinstance(value, float) else f"{name:<34}{value}")
    if part == "val":
        _say_rules(folder.read_json(THRESHOLDS_FILE))
    if config.evaluate.store_thresholds:
        console.say(f"stored in the model file: thresholds by rule {config.thresholds.rule}")
    console.say(f"written: {folder.uri}/summary_{part}.json and predictions_{part}.parquet")
    return summary


def _check_thresholds(config: Config, trained: Config, num_models: int) -> None:
    """Raises InputError where thresholds are to be found on images that are there to judge them."""
    part = config.evaluate.part
    if config.evaluate.store_thresholds and num_models > 1:
        raise InputError(
            f"evaluate.store_thresholds=true with {num_models} models: there is no one file to store them in - name one"
        )
    if config.evaluate.store_thresholds and part != "val":
        raise InputError(
            f"evaluate.store_thresholds=true with evaluate.part = {part}: thresholds are found on the validation part "
            "alone, so that others stay unseen - add evaluate.part=val"
        )
    if config.thresholds != trained.thresholds and part != "val":
        raise InputError(
            f"thresholds.* does nothing with evaluate.part = {part}, which is judged with the stored thresholds - "
            "first store others by evaluate.part=val evaluate.store_thresholds=true"
        )


def _say_rules(rules: dict[str, Any]) -> None:
    console.say("threshold rules, each image judged with thresholds found on others:")
    console.say("               macro F1   95 % interval      micro F1")
    for rule in RULES:
        found = rules[rule]
        ends = f"{found['macro_f1_low']:.3f} to {found['macro_f1_high']:.3f}"
        mark = "  (stored)" if rule == rules["stored"] else ""
        console.say(f"  {rule:<12}{found['macro_f1']:>9.3f}   {ends:<16}{found['micro_f1']:>11.3f}{mark}")


def _check_unseen(ensemble: Ensemble, part: str) -> None:
    """Raises InputError where models of one ensemble split the images differently: each has learned from what is held
    out from another.
    """
    splits = set()
    for member in ensemble.members:
        config = trained_with(member.uri, member.shipped.card.config)
        splits.add((config.data.split, config.data.fold, config.split.parts, config.split.seed, config.split.extra))
    if len(splits) > 1:
        raise InputError(
            f"evaluate.part = {part}: the models were trained on different splits, so some have learned from these "
            "images - name data that none has seen, by data.shards or data.images (out-of-fold scores of crossval are "
            "in its summary.json)"
        )


def trained_with(run: str, text: str) -> Config:
    """The configuration that a model file carries. Raises InputError."""
    try:
        return Config.model_validate(yaml.safe_load(text))
    except ValidationError as error:  # as a whole it shows values, which by aliases may be endless
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
    raise InputError(f"{run}: its configuration is not one of this version ({reason[:200]})")


def open_part(config: Config, ensemble: Ensemble, key: str, part: str) -> tuple[Data, np.ndarray]:
    """The data and the manifest rows of a part, or of `all`. Raises InputError if the models can not take them."""
    if ensemble.channels != config.data.channels:
        raise InputError(
            f"data.channels = {','.join(config.data.channels)}, the model takes {','.join(ensemble.channels)}"
        )
    data = open_data(config)
    if data.source.image_size != ensemble.image_size:
        raise InputError(
            f"the images are of {data.source.image_size} px, the model takes {ensemble.image_size} px: prepare "
            f"them again with data.image_size={ensemble.image_size}"
        )
    rows = np.arange(len(data.image_ids)) if part == "all" else data.parts.get(part, np.empty(0, np.int64))
    if not len(rows):
        raise InputError(f"{key} = {part}: the data has no images in it")
    return data, rows


def folder_of(run: str) -> str:
    """The folder of a run that is named by itself or by its model file."""
    return os.path.dirname(run) if run.endswith(".safetensors") else run
