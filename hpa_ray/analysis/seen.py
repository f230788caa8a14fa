"""A part of the data -> its predictions, stored or made, and embeddings. Before: embed, predict. After: run.

N images of the part, M of them that are embedded, K classes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hpa_ray.analysis.draw import draw
from hpa_ray.analysis.embed import Embedded, Viewer, as_stored
from hpa_ray.checkpoint.model_file import ModelCard, ShippedModel
from hpa_ray.checkpoint.results import write_results
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.predict import Given, alone, infer
from hpa_ray.schema import Reject
from hpa_ray.storage import exists, read_bytes, read_parquet
from hpa_ray.stream import check_rejects


class Seen(NamedTuple):
    """Ascending by manifest row; without images that could not be read."""

    rows_N: np.ndarray
    probabilities_NK: np.ndarray  # float64
    embedded: Embedded  # of M of them


def look(
    config: Config,
    viewer: Viewer,
    shipped: ShippedModel,
    rows: np.ndarray,
    *,
    part: str,
    folder: RunFolder,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Seen:
    """Probabilities of all rows, and embeddings of up to analyze.max_images of them.

    Predictions that the folder holds of this model are taken; else they are made and written. One pass gives both
    where all images are embedded. Raises InputError as check_rejects does.
    """
    cfg, data = config.analyze, viewer.data
    rows = np.sort(rows)
    chosen = rows[draw(data.targets_NK[rows], most=cfg.max_images, seed=config.run.seed)]

    def check(rejects: list[Reject]) -> None:
        check_rejects(config, data, rejects)

    embedded = viewer.embed(chosen, batch_size=cfg.batch_size, on_progress=on_progress, on_rejects=check)
    missing = [reject.row for reject in embedded.rejects]
    known = stored(folder.path(f"predictions_{part}.parquet"), shipped.card, data.ids(rows), np.isin(rows, missing))
    if known is not None:
        kept_N, probabilities_NK = known
        return Seen(rows[kept_N], probabilities_NK, embedded)
    everything, probabilities_NK = embedded.rows_N, embedded.probabilities_NK
    if len(chosen) < len(rows):
        given = Given(alone(folder.uri, shipped), data.source_N, data.matching)
        found = infer(given, data.source, rows, batch_size=cfg.batch_size, on_rejects=check)
        everything, probabilities_NK = found.rows_N, as_stored(found.probabilities_NK)
    if len(everything):
        thresholds_K = np.asarray(shipped.card.thresholds)
        ids, targets_NK = data.ids(everything), data.targets_NK[everything]
        write_results(folder, part, ids, probabilities_NK, targets_NK, thresholds_K, shipped.card.run)
    return Seen(everything, probabilities_NK, embedded)


def stored(
    uri: str, card: ModelCard, ids: Sequence[str], unreadable_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """(N,) bool, which of the ids the file has, and their (., K) probabilities in the order of the ids.

    None where there is no such file, or it is of another model (its run and its thresholds say), or its images are
    others than those that can be read.
    """
    if not exists(uri):
        return None
    try:
        table = read_parquet(read_bytes(uri))
        if {"thresholds", "model"} - set(table.column_names) or not table.num_rows:
            return None
        by_id = probabilities_by_id(table)
        first = table.slice(0, 1).to_pylist()[0]
    except (pa.ArrowException, OSError, ValueError):
        return None
    same_model = first["model"] == card.run and np.array_equal(
        np.asarray(first["thresholds"], np.float32), np.asarray(card.thresholds, np.float32)
    )
    kept_N = np.array([image_id in by_id for image_id in ids])
    if not same_model or len(by_id) != kept_N.sum() or not (kept_N | unreadable_N).all():
        return None
    return kept_N, np.stack([by_id[image_id] for image_id in np.asarray(ids)[kept_N]])


def out_of_fold(uri: str) -> dict[str, np.ndarray]:
    """Probabilities by Id of a file of schema.PREDICTION_ROW. Raises InputError."""
    try:
        return probabilities_by_id(read_parquet(read_bytes(uri)))
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"analyze.out_of_fold = {uri}: not a file of predictions ({reason})") from error


def probabilities_by_id(table: pa.Table) -> dict[str, np.ndarray]:
    """Raises ValueError unless the table has Ids, each once, and as many probabilities as there are classes."""
    if {"image_id", "probabilities"} - set(table.column_names):
        raise ValueError("it has no image_id or no probabilities")
    ids = table["image_id"].to_pylist()
    values = np.array(table["probabilities"].combine_chunks().flatten(), np.float64)
    if len(values) != len(ids) * NUM_CLASSES or len(set(ids)) != len(ids):
        raise ValueError(f"it has not {NUM_CLASSES} probabilities of every image, or an image twice")
    if not np.isfinite(values).all():
        raise ValueError("some of its probabilities are no numbers")
    return dict(zip(ids, values.reshape(-1, NUM_CLASSES), strict=True))
