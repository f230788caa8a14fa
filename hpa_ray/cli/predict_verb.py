"""`predict`: from models and images to probabilities, labels and a submission."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.cli.evaluate_verb import folder_of, trained_with
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, resolve, with_atlas
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.ingest import ImageSource
from hpa_ray.manifest import build_manifest, check_ceiling, list_folder, problem_lines, read_ids
from hpa_ray.predict import (
    Chunks,
    Ensemble,
    Given,
    Parts,
    identity_of,
    open_ensemble,
    predict_parts,
    write_submission,
)
from hpa_ray.progress import console
from hpa_ray.retrieval import TrainingEmbeddings, training_embeddings
from hpa_ray.schema import EMBEDDING_ROW, LABELS, NEIGHBOR_ROW, PREDICTION_ROW, Reject, rejected_table
from hpa_ray.shards import ShardSource, open_shards
from hpa_ray.storage import join, write_parquet, write_parquet_of
from hpa_ray.stream.data import stored_matching


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
    return training_embeddings(own, config, ensemble, folder_of(member.uri))


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
