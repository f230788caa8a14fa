"""`evaluate` and `predict`: from a run folder to scores and labels."""

import os
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from hpa_ray.checkpoint.judge import THRESHOLDS_FILE
from hpa_ray.checkpoint.model_file import MODEL_FILE, load_model, save_model
from hpa_ray.checkpoint.results import prediction_table
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, resolve, with_atlas
from hpa_ray.config import Config, dump_config, load_config
from hpa_ray.errors import InputError
from hpa_ray.evaluate import evaluate as evaluate_model
from hpa_ray.ingest import ImageSource
from hpa_ray.manifest import build_manifest, check_ceiling, list_folder, problem_lines, read_ids
from hpa_ray.metrics import RULES
from hpa_ray.predict import infer, labels_of, write_submission
from hpa_ray.progress import console
from hpa_ray.schema import Reject, rejected_table
from hpa_ray.shards import ShardSource, open_shards
from hpa_ray.storage import absolute, join, write_parquet
from hpa_ray.stream import open_data
from hpa_ray.stream.data import stored_matching


def evaluate(invocation: Invocation) -> dict[str, Any]:
    run = load_config(invocation.words, recipe=invocation.recipe, file=invocation.file).evaluate.run
    if run is None:
        raise InputError("evaluate needs evaluate.run=RUN_FOLDER (or a model.safetensors)")
    shipped = load_model(absolute(run))
    trained = _trained_with(run, shipped.card.config)
    config = resolve(invocation, base=trained)
    part = config.evaluate.part
    _check_thresholds(config, trained)
    if shipped.card.channels != config.data.channels:
        raise InputError(
            f"data.channels = {','.join(config.data.channels)}, the model takes {','.join(shipped.card.channels)}"
        )
    data = open_data(config)
    if data.source.image_size != shipped.card.image_size:
        raise InputError(
            f"the images are of {data.source.image_size} px, the model takes {shipped.card.image_size} px: prepare "
            f"them again with data.image_size={shipped.card.image_size}"
        )
    rows = np.arange(len(data.image_ids)) if part == "all" else data.parts.get(part, np.empty(0, np.int64))
    if not len(rows):
        raise InputError(f"evaluate.part = {part}: the data has no images in it")
    folder = RunFolder(config.evaluate.output or (os.path.dirname(run) if run.endswith(".safetensors") else run))

    def store(thresholds: np.ndarray) -> None:
        text = dump_config(trained.model_copy(update={"thresholds": config.thresholds}))
        card = shipped.card.model_copy(update={"thresholds": tuple(thresholds.tolist()), "config": text})
        save_model(absolute(run) if run.endswith(".safetensors") else join(run, MODEL_FILE), shipped.model, card)

    with console.progress("evaluate", len(rows)) as show:
        summary = evaluate_model(
            config,
            shipped,
            data,
            rows,
            part=part,
            folder=folder,
            stored=trained.thresholds.rule,
            store=store if config.evaluate.store_thresholds else None,
            on_progress=show,
        )
    for name, value in summary.items():
        if name != "intervals":
            ends = summary["intervals"].get(name)
            sure = f"   {ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
            console.say(f"{name:<34}{value:.4f}{sure}" if isinstance(value, float) else f"{name:<34}{value}")
    if part == "val":
        _say_rules(folder.read_json(THRESHOLDS_FILE))
    if config.evaluate.store_thresholds:
        console.say(f"stored in the model file: thresholds by rule {config.thresholds.rule}")
    console.say(f"written: {folder.uri}/summary_{part}.json and predictions_{part}.parquet")
    return summary


def _check_thresholds(config: Config, trained: Config) -> None:
    """Raises InputError where thresholds are to be found on images that are there to judge them."""
    part = config.evaluate.part
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


def _trained_with(run: str, text: str) -> Config:
    """The configuration that a model file carries. Raises InputError."""
    try:
        return Config.model_validate(yaml.safe_load(text))
    except ValidationError as error:  # as a whole it shows values, which by aliases may be endless
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
    raise InputError(f"{run}: its configuration is not one of this version ({reason[:200]})")


def predict(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    output = config.predict.output
    if config.predict.run is None or output is None:
        raise InputError("predict needs predict.run=RUN_FOLDER and predict.output=FOLDER")
    shipped = load_model(config.predict.run)
    if not has_data(config):
        config = with_atlas(config)
    wanted = read_ids(config.predict.submission) if config.predict.submission else None
    card = shipped.card
    source, ids, rejects, source_N = _open_unlabelled(config, card.channels, card.image_size, wanted)
    matching = None
    if isinstance(source, ShardSource) and card.model.normalize == "source":
        matching = stored_matching(source.index, card.channels, source_N)
    cfg = config.data
    where, num_images = cfg.shards or cfg.images or "", len(ids) + len(rejects) if wanted is None else len(wanted)

    def check(more: list[Reject]) -> None:
        check_ceiling(where, rejects + more, num_images, on_error=cfg.on_error, max_rejected=cfg.max_rejected)

    check([])
    with console.progress("predict", len(ids)) as show:
        found = infer(
            shipped,
            source,
            np.arange(len(ids)) if wanted is None else np.flatnonzero(np.isin(ids, wanted)),
            batch_size=config.predict.batch_size,
            num_workers=config.predict.num_workers,
            source_N=source_N,
            matching=matching,
            on_progress=show,
            on_rejects=check,
        )
    rejects += found.rejects
    thresholds = np.asarray(shipped.card.thresholds)
    labels = labels_of(found.probabilities_NK, thresholds)
    names = [ids[row] for row in found.rows_N]
    write_parquet(
        join(output, "predictions.parquet"),
        prediction_table(names, found.probabilities_NK, labels, shipped.card.run, thresholds=thresholds),
    )
    by_id = dict(zip(names, labels, strict=True))
    order = wanted if wanted is not None else sorted(names + [reject.image_id for reject in rejects])
    filled = write_submission(join(output, "submission.csv"), order, by_id)
    if rejects:
        write_parquet(join(output, "rejected.parquet"), rejected_table(rejects))
        for line in problem_lines(where, rejects):
            console.say(f"left out  {line}")
    if filled:
        console.say(f"{filled} rows of submission.csv have no prediction and carry the most frequent label set")
    console.say(f"{len(names)} images predicted; written: {output}/predictions.parquet, {output}/submission.csv")
    return {"output": output, "num_images": len(names), "num_rejected": len(rejects), "num_filled": filled}


def _open_unlabelled(
    config: Config, channels: tuple[str, ...], image_size: int, wanted: list[str] | None
) -> tuple[ShardSource | ImageSource, list[str], list[Reject], np.ndarray]:
    """The images to classify, their ids by row, those that can not be used, and the number of each one's source."""
    cfg = config.data
    if cfg.extra:
        raise InputError("predict takes one folder or one set of shards - leave data.extra out")
    if cfg.shards:
        shards, table = open_shards(cfg.shards, channels)
        if shards.image_size != image_size:
            raise InputError(f"{cfg.shards} holds {shards.image_size} px images, the model takes {image_size} px")
        ids = table["image_id"].to_pylist()
        return shards, ids, _not_there(wanted, ids, channels), table["source"].to_numpy()
    if not cfg.images:
        raise InputError("predict needs data.images=FOLDER (or data.shards=FOLDER)")
    table, incomplete, _ = build_manifest(list_folder(cfg.images), None, channels)
    ids = table["image_id"].to_pylist()
    asked = None if wanted is None else set(wanted)
    rejects = [reject for reject in incomplete if asked is None or reject.image_id in asked]
    rejects += _not_there(wanted, ids + [reject.image_id for reject in rejects], channels)
    source = ImageSource((cfg.images,), table, channels, image_size, cfg.white_level)
    return source, ids, rejects, np.zeros(len(ids), np.int8)


def _not_there(wanted: list[str] | None, ids: list[str], channels: tuple[str, ...]) -> list[Reject]:
    """The Ids of the sample submission of which there is nothing at all."""
    missing = sorted(set(wanted or ()) - set(ids))
    return [Reject(-1, name, f"{name}_{channels[0]}.png", "no image of this Id") for name in missing]
