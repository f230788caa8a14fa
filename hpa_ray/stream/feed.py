"""Items -> batches, in order, read ahead: on threads of this process, or by Ray Data tasks anywhere in the cluster.

Before: stream/schedule and a source (ingest or shards). After: stream/device.
"""

import itertools
import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpa_ray import cluster, storage
from hpa_ray.schema import Reject, Source
from hpa_ray.stream.schedule import Batch, Item, Items

TASK_BYTES = 32 * 2**20
"""Pixels a Ray Data task reads at a time: small batches share a task, whose start costs some ms."""
ITEMS_PER_TASK = 16
CPUS_PER_TASK = 0.5
"""Two tasks to a CPU: Ray Data looks ten times a second for tasks that are over and starts the next 0.15 to 0.2 s
later. A CPU with one task would have nothing to do meanwhile: with tasks of 0.4 s for a third of the time."""
PIPELINE_TASKS, OVERLAP_TASKS = 1000, 50
"""Of one pipeline of Ray Data, and those that are left of it when the next is started."""


def read_item(source: Source, item: Item) -> Batch:
    """The images of an item in its order; one that stands in it several times is read once."""
    distinct, copy_B = np.unique(item.rows_B, return_inverse=True)
    repeats = len(distinct) < len(item.rows_B)
    if not repeats:
        distinct, copy_B = item.rows_B, np.arange(len(item.rows_B))
    images = source.read(distinct)
    kept = np.isin(distinct, images.rows_B)
    kept_B = kept[copy_B]
    pixels = images.pixels_BCSS[(np.cumsum(kept) - 1)[copy_B[kept_B]]] if repeats else images.pixels_BCSS
    rows, seeds = item.rows_B[kept_B], item.seeds_B[kept_B]
    return Batch(item.kind, item.epoch, item.step, rows, seeds, item.step_size, pixels, images.rejects)


def local_feed(source: Source, items: Items, *, prefetch: int) -> Iterator[Batch]:
    """Batches in the order of the items, up to `prefetch` of them read ahead on threads; needs no Ray."""
    pool = ThreadPoolExecutor(min(prefetch, cluster.available_cpus()))
    pending: deque[Future[Batch]] = deque()
    try:
        for number in range(len(items)):
            pending.append(pool.submit(lambda k: read_item(source, items[k]), number))
            if len(pending) > prefetch:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def ray_blocks(source: Source, items: Items, *, per_task: int) -> Any:
    """A Ray Dataset of Arrow blocks, each with the batches of `per_task` items (see from_block), in order."""
    return _blocks(cluster.share((source, items)), per_task, range(-(-len(items) // per_task)))


def _blocks(reference: Any, per_task: int, tasks: range) -> Any:
    """The blocks of these tasks of a shared (source, items).

    A data source of our own, as range().map_batches() makes two tasks of each: Ray Data does not fuse them, and runs
    thousands of the first kind before the first of the second.
    """
    import ray.data
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)

    class Batches(Datasource):  # type: ignore[misc]
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, parallelism: int, *more: Any, **options: Any) -> list[ReadTask]:
            reads = (partial(_read_blocks, reference, per_task, number) for number in tasks)
            return [ReadTask(read, unknown) for read in reads]

    context = cluster.data_context(in_order=True)
    context.execution_no_progress_timeout_s = -1  # long steps and long validations are no hang: see train/watchdog
    with _building, ray.data.DataContext.current(context):
        return ray.data.read_datasource(Batches(), override_num_blocks=len(tasks), num_cpus=CPUS_PER_TASK)


def _read_blocks(reference: Any, per_task: int, number: int) -> list[pa.Table]:
    """In a task of Ray Data."""
    source, items = cluster.shared(reference)
    last = min((number + 1) * per_task, len(items))
    return [to_block([read_item(source, items[k]) for k in range(number * per_task, last)])]


def ray_feed(source: Source, items: Items, *, prefetch: int, batch_bytes: int) -> Iterator[Batch]:
    """The same batches, read by Ray Data tasks on whatever CPUs the cluster has to spare, streamed as Arrow blocks.

    Each worker runs a pipeline of its own over its own items: no worker waits for another one's reader, and the order
    within a worker is kept (preserve_order), so the samples of every step are exactly those of the schedule.

    Ray Data makes all tasks of a pipeline, at 1 ms each, before the first one runs. So one pipeline follows another,
    and the next is started while the last tasks of the one before are waited for.
    """
    per_task = max(1, min(ITEMS_PER_TASK, TASK_BYTES // max(1, batch_bytes)))
    num_tasks = -(-len(items) // per_task)
    if not num_tasks:
        return
    reference, ahead = cluster.share((source, items)), max(1, prefetch // per_task)

    def start(first: int) -> Iterator[pa.Table]:
        blocks = _blocks(reference, per_task, range(first, min(first + PIPELINE_TASKS, num_tasks)))
        tables = blocks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead)
        return itertools.chain([next(tables := iter(tables))], tables)

    starter, begun = ThreadPoolExecutor(1), 0
    try:
        coming: Future[Iterator[pa.Table]] | None = starter.submit(start, 0)
        while coming is not None:
            tables, coming, left = coming.result(), None, PIPELINE_TASKS
            begun += PIPELINE_TASKS
            for table in tables:
                left -= 1
                if coming is None and left < OVERLAP_TASKS and begun < num_tasks:
                    coming = starter.submit(start, begun)
                yield from from_block(table)
            if coming is None and begun < num_tasks:  # where Ray Data has joined tables
                coming = starter.submit(start, begun)
    finally:
        starter.shutdown(wait=False, cancel_futures=True)


_building = threading.Lock()
"""Ray Data's current settings belong to the process, not to the thread that sets them for a while."""


def to_block(batches: Sequence[Batch]) -> pa.Table:
    """Batches as an Arrow table with a row per batch."""
    return pa.table(
        {
            "kind": [batch.kind for batch in batches],
            "epoch": [batch.epoch for batch in batches],
            "step": [batch.step for batch in batches],
            "rows": pa.array([batch.rows_B for batch in batches], pa.list_(pa.int64())),
            "seeds": pa.array([batch.seeds_B for batch in batches], pa.list_(pa.int64())),
            "step_size": [batch.step_size for batch in batches],
            "shape": pa.array([batch.pixels_BCSS.shape for batch in batches], pa.list_(pa.int64())),
            "pixels": pa.array([batch.pixels_BCSS.reshape(-1).data for batch in batches], pa.large_binary()),
            "rejects": [json.dumps(batch.rejects) for batch in batches],
            "retries": [storage.take_retries(), *[0] * (len(batches) - 1)],
        }
    )


def from_block(block: pa.Table) -> Iterator[Batch]:
    """The batches of a table; pixels are read-only views of it. The repeated requests it cost are counted here."""
    storage.add_retries(pc.sum(block["retries"]).as_py() or 0)
    for record in block.to_batches():
        small = record.drop_columns(["pixels"]).to_pylist()
        pixels = record.column("pixels")
        offsets = np.frombuffer(pixels.buffers()[1], np.int64)[pixels.offset : pixels.offset + len(pixels) + 1]
        data = np.frombuffer(pixels.buffers()[2], np.uint8) if offsets[-1] else np.empty(0, np.uint8)
        for row, start, stop in zip(small, offsets[:-1], offsets[1:], strict=True):
            yield Batch(
                row["kind"],
                row["epoch"],
                row["step"],
                np.asarray(row["rows"], np.int64),
                np.asarray(row["seeds"], np.int64),
                row["step_size"],
                data[start:stop].reshape(row["shape"]),
                [Reject(*reject) for reject in json.loads(row["rejects"])],
            )
