"""`evaluate` and `predict`: from a run folder to scores and labels."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from pydantic import ValidationError

from hpa_ray.checkpoint.judge import THRESHOLDS_FILE
from hpa_ray.checkpoint.model_file import MODEL_FILE, save_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, resolve, with_atlas
from hpa_ray.config import Config, dump_config, load_config
from hpa_ray.errors import InputError
from hpa_ray.evaluate import evaluate as evaluate_model
from hpa_ray.ingest import ImageSource
from hpa_ray.manifest import build_manifest, check_ceiling, list_folder, problem_lines, read_ids
from hpa_ray.metrics import RULES
from hpa_ray.predict import (
    Chunks,
    Ensemble,
    Given,
    Parts,
    ensemble_of,
    identity_of,
    open_ensemble,
    open_members,
    predict_parts,
    write_submission,
)
from hpa_ray.progress import console
from hpa_ray.retrieval import TrainingEmbeddings, training_embeddings
from hpa_ray.schema import EMBEDDING_ROW, LABELS, NEIGHBOR_ROW, PREDICTION_ROW, Reject, rejected_table
from hpa_ray.shards import ShardSource, open_shards
from hpa_ray.storage import absolute, join, write_parquet, write_parquet_of
from hpa_ray.stream import open_data
from hpa_ray.stream.data import stored_matching


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
    if ensemble.channels != config.data.channels:
        raise InputError(
            f"data.channels = {','.join(config.data.channels)}, the model takes {','.join(ensemble.channels)}"
        )
    part, several = config.evaluate.part, len(ensemble.members) > 1
    if several and not any(word.startswith("data.") for word in invocation.words) and not invocation.file:
        _check_unseen(ensemble, part)
    if config.evaluate.output is None and several:
        raise InputError("evaluate needs evaluate.output=FOLDER where evaluate.run stands for several models")
    data = open_data(config)
    if data.source.image_size != ensemble.image_size:
        raise InputError(
            f"the images are of {data.source.image_size} px, the model takes {ensemble.image_size} px: prepare "
            f"them again with data.image_size={ensemble.image_size}"
        )
    rows = np.arange(len(data.image_ids)) if part == "all" else data.parts.get(part, np.empty(0, np.int64))
    if not len(rows):
        raise InputError(f"evaluate.part = {part}: the data has no images in it")
    run = runs[0]
    folder = RunFolder(config.evaluate.output or (os.path.dirname(run) if run.endswith(".safetensors") else run))

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


def predict(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    cfg, output = config.predict, config.predict.output
    if not cfg.run or output is None:
        raise InputError("predict needs predict.run=RUN_FOLDER and predict.output=FOLDER")
    ensemble = open_ensemble(cfg.run, config.inference, console.say)
    wants_embeddings = cfg.embeddings or cfg.neighbors > 0
    if wants_embeddings and len(ensemble.members) > 1:
        raise InputError("predict.embeddings and predict.neighbors are of one model - give one run in predict.run")
    if not has_data(config):
        config = with_atlas(config)
    wanted = read_ids(cfg.submission) if cfg.submission else None
    source, ids, rejects, source_N = _open_unlabelled(config, ensemble.channels, ensemble.image_size, wanted)
    matching = None
    if isinstance(source, ShardSource) and ensemble.matches_sources:
        matching = stored_matching(source.index, ensemble.channels, source_N)
    where = config.data.shards or config.data.images or ""
    num_images = len(ids) + len(rejects) if wanted is None else len(wanted)
    rows = np.arange(len(ids)) if wanted is None else np.flatnonzero(np.isin(ids, wanted))

    def check(more: list[Reject]) -> None:
        allowed = config.data.max_rejected
        check_ceiling(where, rejects + more, num_images, on_error=config.data.on_error, max_rejected=allowed)

    check([])
    index = _training_embeddings(config, ensemble) if cfg.neighbors else None  # mistakes first
    given = Given(ensemble, source_N, matching, wants_embeddings)
    chunks = Chunks(rows, cfg.chunk_images, cfg.batch_size, ())
    parts = Parts(output, identity_of(given, ids, chunks, images=where, white_level=config.data.white_level))
    if parts.finished:
        console.say(f"going on: {len(parts.finished)} of {chunks.num_chunks} chunks were predicted before")
    with console.progress("predict", len(rows)) as show:
        rejects += predict_parts(
            given,
            source,
            ids,
            chunks,
            parts,
            num_workers=cfg.num_workers,
            on_progress=show,
            on_rejects=check,
        )
    result = _join(config, output, parts, rejects, wanted, index)
    for line in problem_lines(where, rejects):
        console.say(f"left out  {line}")
    if result["num_filled"]:
        console.say(
            f"{result['num_filled']} rows of submission.csv have no prediction and carry the most frequent label set"
        )
    console.say(
        f"{result['num_images']} images predicted; written: {output}/predictions.parquet, {output}/submission.csv"
    )
    return result


def _join(
    config: Config,
    output: str,
    parts: Parts,
    rejects: list[Reject],
    wanted: list[str] | None,
    index: TrainingEmbeddings | None,
) -> dict[str, Any]:
    """The parts as the files that were asked for; they are removed last."""
    by_id: dict[str, list[int]] = {}

    def predictions() -> Iterator[pa.Table]:
        for table in parts.tables():
            by_id.update(zip(table["image_id"].to_pylist(), table["labels"].to_pylist(), strict=True))
            yield table.select(PREDICTION_ROW.names)

    def embeddings() -> Iterator[pa.Table]:
        for table in parts.tables():
            truth = pa.nulls(table.num_rows, LABELS)
            yield pa.table([table["image_id"], truth, table["embedding"]], schema=EMBEDDING_ROW)

    write_parquet_of(join(output, "predictions.parquet"), PREDICTION_ROW, predictions())
    if config.predict.embeddings:
        write_parquet_of(join(output, "embeddings.parquet"), EMBEDDING_ROW, embeddings())
    if index is not None:
        neighbors = (index.neighbors(table, config.predict.neighbors) for table in embeddings())
        write_parquet_of(join(output, "neighbors.parquet"), NEIGHBOR_ROW, neighbors)
    order = wanted if wanted is not None else sorted([*by_id, *(reject.image_id for reject in rejects)])
    filled = write_submission(join(output, "submission.csv"), order, by_id)
    if rejects:
        write_parquet(join(output, "rejected.parquet"), rejected_table(rejects))
    parts.remove()
    return {"output": output, "num_images": len(by_id), "num_rejected": len(rejects), "num_filled": filled}


def _training_embeddings(config: Config, ensemble: Ensemble) -> TrainingEmbeddings:
    """Of the training part of the model's own run, from its folder or worked out now."""
    member = ensemble.members[0]
    own = trained_with(member.uri, member.shipped.card.config)
    folder = os.path.dirname(member.uri) if member.uri.endswith(".safetensors") else member.uri
    return training_embeddings(own, config, ensemble, folder)


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
