"""`evaluate` and `predict`: from a run folder to scores and labels."""

import os
from typing import Any, NamedTuple

import numpy as np
import yaml
from pydantic import ValidationError

from hpa_ray.checkpoint.model_file import ShippedModel, load_model
from hpa_ray.checkpoint.results import prediction_table
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, resolve, with_atlas
from hpa_ray.config import Config, load_config
from hpa_ray.errors import InputError
from hpa_ray.evaluate import evaluate as evaluate_model
from hpa_ray.ingest import ImageSource
from hpa_ray.manifest import build_manifest, check_ceiling, list_folder, problem_lines, read_ids
from hpa_ray.predict import infer, labels_of, write_submission
from hpa_ray.progress import console
from hpa_ray.schema import Reject, rejected_table
from hpa_ray.shards import ShardSource, open_shards
from hpa_ray.storage import absolute, join, write_parquet
from hpa_ray.stream import Data, open_data
from hpa_ray.stream.data import stored_matching


class Trained(NamedTuple):
    """A model and the part of labelled data that a verb asks for."""

    config: Config
    shipped: ShippedModel
    data: Data
    rows: np.ndarray  # of the manifest
    part: str
    folder: RunFolder


def evaluate(invocation: Invocation) -> dict[str, Any]:
    config, shipped, data, rows, part, folder = open_trained(invocation)
    with console.progress("evaluate", len(rows)) as show:
        summary = evaluate_model(config, shipped, data, rows, part=part, folder=folder, on_progress=show)
    for name, value in summary.items():
        console.say(f"{name:<28}{value:.4f}" if isinstance(value, float) else f"{name:<28}{value}")
    console.say(f"written: {folder.uri}/summary_{part}.json and predictions_{part}.parquet")
    return summary


def open_trained(invocation: Invocation) -> Trained:
    """What VERB.run, VERB.part and VERB.output of `evaluate` or `analyze` name. Raises InputError."""
    verb = invocation.verb
    words, recipe, file = invocation.words, invocation.recipe, invocation.file
    run: str | None = getattr(load_config(words, recipe=recipe, file=file), verb).run
    if run is None:
        raise InputError(f"{verb} needs {verb}.run=RUN_FOLDER (or a model.safetensors)")
    shipped = load_model(absolute(run))
    config = resolve(invocation, base=_trained_with(run, shipped.card.config))
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
    cfg = getattr(config, verb)
    rows = np.arange(len(data.image_ids)) if cfg.part == "all" else data.parts.get(cfg.part, np.empty(0, np.int64))
    if not len(rows):
        raise InputError(f"{verb}.part = {cfg.part}: the data has no images in it")
    folder = RunFolder(cfg.output or (os.path.dirname(run) if run.endswith(".safetensors") else run))
    return Trained(config, shipped, data, rows, cfg.part, folder)


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
