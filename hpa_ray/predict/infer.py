"""Rows of a source -> probabilities, in this process or by Ray Data actors that hold the models.

Before: ensemble, stream. After: parts, evaluate.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hpa_ray import cluster, storage
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model.precision import autocast_dtype, numerics
from hpa_ray.predict.ensemble import Ensemble, Member
from hpa_ray.predict.views import NUM_VIEWS, pooled, view
from hpa_ray.schema import Reject, Source
from hpa_ray.stream import Batch, Sweep, local_feed, ray_blocks
from hpa_ray.stream.data import Matching
from hpa_ray.stream.device import SourceMatch, move
from hpa_ray.stream.feed import from_block
from hpa_ray.stream.schedule import Items

PREFETCH_BATCHES = 4

# M members, V views, B images, K classes, F features


class Found(NamedTuple):
    """What the models say of a batch. Images that could not be read are in `rejects` instead."""

    chunk: int  # `epoch` of the batch's item
    rows_B: np.ndarray  # int64
    probability_BK: np.ndarray  # float64
    chosen_BK: np.ndarray  # bool: labels
    embedding_BF: np.ndarray  # float32; no features where they were not asked for
    rejects: list[Reject]


class Predictions(NamedTuple):
    """Ascending by manifest row; images that could not be read are in `rejects` instead."""

    rows_N: np.ndarray  # int64
    probabilities_NK: np.ndarray  # float64
    chosen_NK: np.ndarray  # bool
    embeddings_NF: np.ndarray  # float32
    rejects: list[Reject]


class Given(NamedTuple):
    """What a batch is looked at with."""

    ensemble: Ensemble
    source_N: np.ndarray | None = None
    """Number of the source of every manifest row."""
    matching: Matching | None = None
    """Of data of several sources, whose intensities are matched for the models that were trained so."""
    embeddings: bool = False
    """Of the first model."""


def infer(
    given: Given,
    source: Source,
    rows: np.ndarray,
    *,
    batch_size: int,
    num_workers: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
    on_rejects: Callable[[list[Reject]], None] = lambda rejects: None,
) -> Predictions:
    """Probabilities of the given manifest rows, all in memory.

    on_progress(images done); on_rejects(all images so far that could not be used) may raise to stop at once.
    """
    found: list[Found] = []
    rejects: list[Reject] = []
    done = 0
    for one in found_batches(given, source, Sweep(np.sort(rows), batch_size), num_workers=num_workers):
        found.append(one)
        if one.rejects:
            rejects += one.rejects
            on_rejects(rejects)
        done += len(one.rows_B) + len(one.rejects)
        on_progress(done)
    return together(found)


def together(found: list[Found]) -> Predictions:
    """In the order of their manifest rows."""
    rows = np.concatenate([np.empty(0, np.int64), *(one.rows_B for one in found)])
    order = np.argsort(rows, kind="stable")
    num_features = max((one.embedding_BF.shape[1] for one in found if len(one.rows_B)), default=0)
    features = [one.embedding_BF for one in found if len(one.rows_B)]
    return Predictions(
        rows[order],
        np.concatenate([np.empty((0, NUM_CLASSES)), *(one.probability_BK for one in found)])[order],
        np.concatenate([np.empty((0, NUM_CLASSES), bool), *(one.chosen_BK for one in found)])[order],
        np.concatenate([np.empty((0, num_features), np.float32), *features])[order],
        [reject for one in found for reject in one.rejects],
    )


def found_batches(given: Given, source: Source, items: Items, *, num_workers: int = 0) -> Iterator[Found]:
    """What the models say of every item, in the order of the items."""
    if not len(items):
        return iter(())
    return _on_actors(given, source, items, num_workers) if num_workers else _in_process(given, source, items)


class Predictor:
    """The models on their device; in Ray Data, one actor of the pool."""

    def __init__(self, given: Given, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_gpu = self.device.type == "cuda"
        self.memory_format = torch.channels_last if on_gpu else torch.contiguous_format
        self.given, self.cfg = given, given.ensemble.cfg
        self.members = given.ensemble.members
        for member in self.members:
            member.shipped.model.to(self.device).to(memory_format=self.memory_format).eval()
        source_N = np.empty(0, np.int8) if given.source_N is None else given.source_N
        self.match = SourceMatch(source_N, given.matching, self.device)
        self.views = range(NUM_VIEWS if self.cfg.tta == "dihedral" else 1)

    @torch.inference_mode()
    def begin(self, batch: Batch) -> "Begun":
        """Start the work on a batch; on a GPU it is done while the next one is read."""
        if not len(batch.rows_B):
            return Begun(batch, torch.empty(0), None)
        raw = move(batch.pixels_BCSS, torch.uint8, self.device)
        matched = self.match(raw, batch.rows_B)
        logits, embeddings = [], []
        for number, member in enumerate(self.members):
            images = matched if member.shipped.card.model.normalize == "source" else raw
            for turn in self.views:
                seen = view(images, turn).contiguous(memory_format=self.memory_format)
                logits_BK, embedding_BF = self._forward(member, seen, self.given.embeddings and number == 0)
                logits.append(logits_BK)
                if embedding_BF is not None:
                    embeddings.append(embedding_BF)
        logits_MVBK = torch.stack(logits).view(len(self.members), len(self.views), *logits[0].shape)
        return Begun(batch, logits_MVBK, torch.stack(embeddings).mean(dim=0) if embeddings else None)

    def finish(self, begun: "Begun") -> Found:
        batch = begun.batch
        none = np.empty((0, NUM_CLASSES))
        if not len(batch.rows_B):
            return Found(batch.epoch, batch.rows_B, none, none > 0, np.empty((0, 0), np.float32), batch.rejects)
        logits_MVBK = begun.logits_MVBK.cpu().numpy().astype(np.float64)
        views_MVBK = np.exp(-np.logaddexp(0, -logits_MVBK))
        probability_MBK = np.stack([pooled(views_VBK, self.cfg.tta_pool) for views_VBK in views_MVBK])
        embedding = begun.embedding_BF
        features = np.empty((len(batch.rows_B), 0), np.float32) if embedding is None else embedding.cpu().numpy()
        combined = self.given.ensemble.combined(probability_MBK)
        return Found(batch.epoch, batch.rows_B, *combined, features, batch.rejects)

    def _forward(self, member: Member, images: Tensor, with_embedding: bool) -> tuple[Tensor, Tensor | None]:
        """(B, K) float32 logits, and (B, F) float32 where they are asked for."""
        dtype = precision_of(self.cfg.precision, member.precision, self.device)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            if with_embedding:
                logits, embedding = member.shipped.model.with_embedding(images)
                return logits.float(), embedding
            return member.shipped.model(images).float(), None

    def __call__(self, block: pa.Table) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in (*Found._fields, "retries")}
        for batch in from_block(block):
            found = self.finish(self.begin(batch))
            columns["chunk"].append(found.chunk)
            for name in ("rows_B", "probability_BK", "chosen_BK", "embedding_BF"):
                columns[name].append(getattr(found, name).tobytes())
            columns["rejects"].append([list(map(str, reject)) for reject in batch.rejects])
            columns["retries"].append(storage.take_retries())
        return columns


class Begun(NamedTuple):
    batch: Batch
    logits_MVBK: Tensor  # float32, on the device
    embedding_BF: Tensor | None


def precision_of(asked: str, trained: str, device: torch.device) -> torch.dtype:
    """What a model computes in. `auto`: on a GPU what it was trained and its thresholds were tuned in, else fp32."""
    if asked != "auto":
        return autocast_dtype(asked, device)
    if device.type != "cuda" or trained not in ("auto", "bf16", "fp16"):
        return torch.float32
    return autocast_dtype(trained, device)


def _in_process(given: Given, source: Source, items: Items) -> Iterator[Found]:
    predictor = Predictor(given, cluster.available_cpus())
    with numerics(predictor.device, exact=False), contextlib.ExitStack() as closing:
        batches = local_feed(source, items, prefetch=PREFETCH_BATCHES)
        closing.callback(batches.close)  # type: ignore[attr-defined]
        before: Begun | None = None
        for batch in batches:
            before, ready = predictor.begin(batch), before
            if ready is not None:
                yield predictor.finish(ready)
        if before is not None:
            yield predictor.finish(before)


def _on_actors(given: Given, source: Source, items: Items, num_workers: int) -> Iterator[Found]:
    import ray
    import ray.data

    cluster.start_ray(num_workers)
    blocks = ray_blocks(source, items, per_task=1).map_batches(
        Predictor,
        fn_constructor_args=(given, max(1, cluster.available_cpus() // num_workers)),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=num_workers),
        num_gpus=1 if cluster.has_gpus(num_workers) else 0,
        **cluster.model_options(),
    )
    for row in blocks.iter_rows():
        storage.add_retries(row["retries"])
        rows = np.frombuffer(row["rows_B"], np.int64)
        features = np.frombuffer(row["embedding_BF"], np.float32)
        yield Found(
            row["chunk"],
            rows,
            np.frombuffer(row["probability_BK"], np.float64).reshape(-1, NUM_CLASSES),
            np.frombuffer(row["chosen_BK"], np.bool_).reshape(-1, NUM_CLASSES),
            features.reshape(len(rows), len(features) // max(1, len(rows))),
            [Reject(int(number), *rest) for number, *rest in row["rejects"]],
        )
