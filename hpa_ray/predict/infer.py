"""Rows of a source -> probabilities, in this process or by Ray Data actors that hold the model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from hpa_ray import cluster, storage
from hpa_ray.checkpoint.model_file import ShippedModel
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.schema import Reject, Source
from hpa_ray.stream import Batch, Sweep, local_feed, ray_blocks
from hpa_ray.stream.data import Matching
from hpa_ray.stream.device import SourceMatch
from hpa_ray.stream.feed import from_block

PREFETCH_BATCHES = 4


class Predictions(NamedTuple):
    """Ascending by manifest row; images that could not be read are in `rejects` instead."""

    rows_N: np.ndarray  # int64
    probabilities_NK: np.ndarray  # float64
    rejects: list[Reject]


def infer(
    shipped: ShippedModel,
    source: Source,
    rows: np.ndarray,
    *,
    batch_size: int,
    num_workers: int = 0,
    source_N: np.ndarray | None = None,
    matching: Matching | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
    on_rejects: Callable[[list[Reject]], None] = lambda rejects: None,
) -> Predictions:
    """Probabilities of the given manifest rows.

    source_N, matching: of data of several sources, whose intensities are matched as they were in training.
    on_progress(images done); on_rejects(all images so far that could not be used) may raise to stop at once.
    """
    sweep = Sweep(np.sort(rows), batch_size)
    results = (
        _in_process(shipped, source, sweep, source_N, matching)
        if num_workers == 0
        else _on_actors(shipped, source, sweep, num_workers, source_N, matching)
    )
    seen, logits, rejects = [np.empty(0, np.int64)], [np.empty((0, NUM_CLASSES), np.float32)], []
    done = 0
    for batch_rows, batch_logits, batch_rejects in results:
        seen.append(batch_rows)
        logits.append(batch_logits)
        if batch_rejects:
            rejects += batch_rejects
            on_rejects(rejects)
        done += len(batch_rows) + len(batch_rejects)
        on_progress(done)
    all_rows, all_logits = np.concatenate(seen), np.concatenate(logits).astype(np.float64)
    order = np.argsort(all_rows, kind="stable")
    return Predictions(all_rows[order], np.exp(-np.logaddexp(0, -all_logits[order])), rejects)


class Predictor:
    """The model on its device; in Ray Data, one actor of the pool."""

    def __init__(
        self,
        shipped: ShippedModel,
        num_threads: int,
        source_N: np.ndarray | None = None,
        matching: Matching | None = None,
    ) -> None:
        torch.set_num_threads(num_threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = shipped.model.to(self.device).eval()
        self.match = SourceMatch(np.empty(0, np.int8) if source_N is None else source_N, matching, self.device)

    @torch.inference_mode()
    def logits(self, batch: Batch) -> np.ndarray:
        """(B, K) float32."""
        if not len(batch.rows_B):
            return np.empty((0, NUM_CLASSES), np.float32)
        images = torch.from_numpy(np.array(batch.pixels_BCSS)).to(self.device)
        return np.asarray(self.model(self.match(images, batch.rows_B)).float().cpu().numpy())

    def __call__(self, block: pa.Table) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {"rows": [], "logits": [], "rejects": [], "retries": []}
        for batch in from_block(block):
            columns["rows"].append(batch.rows_B.tobytes())
            columns["logits"].append(self.logits(batch).tobytes())
            columns["rejects"].append([list(map(str, reject)) for reject in batch.rejects])
            columns["retries"].append(storage.take_retries())
        return columns


def _in_process(
    shipped: ShippedModel, source: Source, sweep: Sweep, source_N: np.ndarray | None, matching: Matching | None
) -> Any:
    predictor = Predictor(shipped, cluster.available_cpus(), source_N, matching)
    for batch in local_feed(source, sweep, prefetch=PREFETCH_BATCHES):
        yield batch.rows_B, predictor.logits(batch), batch.rejects


def _on_actors(
    shipped: ShippedModel,
    source: Source,
    sweep: Sweep,
    num_workers: int,
    source_N: np.ndarray | None,
    matching: Matching | None,
) -> Any:
    import ray
    import ray.data

    cluster.start_ray(num_workers)
    blocks = ray_blocks(source, sweep, per_task=1).map_batches(
        Predictor,
        fn_constructor_args=(shipped, max(1, cluster.available_cpus() // num_workers), source_N, matching),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_gpus=1 if cluster.has_gpus(num_workers) else 0,
        **cluster.model_options(),
    )
    for row in blocks.iter_rows():
        logits = np.frombuffer(row["logits"], np.float32).reshape(-1, NUM_CLASSES)
        rejects = [Reject(int(number), *rest) for number, *rest in row["rejects"]]
        storage.add_retries(row["retries"])
        yield np.frombuffer(row["rows"], np.int64), logits, rejects
