"""What a `prepare` would write and how long it would take: nothing is written. Before: ingest/reader. After: cli."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpa_ray.ingest.notes import KEY
from hpa_ray.ingest.reader import ImageSource
from hpa_ray.manifest import Manifest
from hpa_ray.output import names_in
from hpa_ray.shards import CHUNK_ROWS
from hpa_ray.storage import free_bytes

SHARD_BYTES = 128 * 2**20
PLAN_IMAGES = 24
"""Images that are read to estimate how long all will take."""
MIN_SHARDS = 16
"""A small data set still gives every CPU of a small cluster something to do, as far as whole chunks allow."""


class Plan(NamedTuple):
    """What a `prepare` writes, and what it takes."""

    num_images: int
    num_shards: int
    sizes: tuple[int, ...]
    num_bytes: int
    free_bytes: int | None
    """Of the disk; None for an object store."""
    seconds_per_image: float | None
    """On one CPU, measured on a few images; None where none could be read."""


def plan(
    manifest: Manifest,
    *,
    output: str,
    channels: tuple[str, ...],
    sizes: Sequence[int],
    shard_bytes: int = SHARD_BYTES,
    white_level: int = 65535,
) -> Plan:
    """Size and time of a `prepare`, from a few images that are read; nothing is written."""
    names_in(KEY, output)  # refuses a file
    num_images = manifest.table.num_rows
    row_bytes = len(channels) * sum(size**2 for size in sizes)
    source = ImageSource(manifest.folders, manifest.table, channels, max(sizes), white_level)
    rows = np.random.default_rng(0).permutation(num_images)[:PLAN_IMAGES]
    source.read_sizes(rows[:1], sizes)  # what is imported and connected first is no part of the rate
    start = time.perf_counter()
    kept, _, _ = source.read_sizes(rows, sizes)
    seconds = (time.perf_counter() - start) / len(kept) if len(kept) else None
    num_shards = -(-num_images // rows_of_shard(num_images, len(channels) * max(sizes) ** 2, shard_bytes))
    return Plan(num_images, num_shards * len(sizes), tuple(sizes), num_images * row_bytes, free_bytes(output), seconds)


def rows_of_shard(num_rows: int, row_bytes: int, shard_bytes: int) -> int:
    for_all_cpus = -(-num_rows // MIN_SHARDS // CHUNK_ROWS) * CHUNK_ROWS
    return int(max(CHUNK_ROWS, min(for_all_cpus, shard_bytes // row_bytes // CHUNK_ROWS * CHUNK_ROWS)))
