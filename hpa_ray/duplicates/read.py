"""A source of pixels -> the hashes of its images, in many small tasks. Before: ingest, shards. After: find."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hpa_ray.duplicates.hashes import hash_images
from hpa_ray.ingest.tasks import run_tasks
from hpa_ray.schema import Reject, Source

# N rows, C stains

SIDE_PX = 64
"""Files are shrunk to this side: their usual sides (512, 1728, 2048, 3072) are multiples of it, so it is exact, and
the hashes differ from those of the full size by one bit in ten planes or less."""
TASK_IMAGES = (16, 1024)
TASK_BYTES = 64 * 2**20
"""Pixels held by a task."""


class Hashes(NamedTuple):
    hashes_NC: np.ndarray  # uint64
    informative_NC: np.ndarray  # bool
    read_N: np.ndarray  # bool: False for rejects, whose hashes are 0
    rejects: list[Reject]


def hashes_of(
    source: Source,
    rows: np.ndarray,
    *,
    num_workers: int | None,
    on_rejects: Callable[[list[Reject]], None] = lambda rejects: None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Hashes:
    """Hashes of the given manifest rows, in their order, by Ray Data tasks or, with num_workers=0, on threads.

    `on_rejects` gets all rejects so far whenever there are more, and may raise InputError to end the work. Raises
    InputError for shards that can not be read.
    """
    num_stains = len(source.channels)
    fit = TASK_BYTES // (num_stains * source.image_size**2)
    per_task = int(min(np.clip(len(rows) // 1000, *TASK_IMAGES), max(fit, 1)))
    hashes = np.zeros((len(rows), num_stains), np.uint64)
    informative = np.zeros((len(rows), num_stains), bool)
    read = np.ones(len(rows), bool)
    rejects: list[Reject] = []
    done = 0
    numbers = range(-(-len(rows) // per_task))
    for result in run_tasks(_HashTask(source, rows, per_task), numbers, num_workers=num_workers):
        at = result["start"] + np.asarray(result["places"], np.int64)
        hashes[at] = np.asarray(result["hashes"], np.uint64).reshape(-1, num_stains)
        informative[at] = np.asarray(result["informative"], bool).reshape(-1, num_stains)
        read[result["start"] : result["start"] + result["rows"]] = False
        read[at] = True
        if result["rejects"]:
            rejects += [Reject(*reject) for reject in result["rejects"]]
            on_rejects(rejects)
        done += result["rows"]
        on_progress(done)
    return Hashes(hashes, informative, read, sorted(rejects))


class _HashTask:
    """Reads and hashes one run of rows; a class so that Ray sends its parts once."""

    def __init__(self, source: Source, rows: np.ndarray, per_task: int) -> None:
        self.source, self.rows, self.per_task = source, rows, per_task

    def __call__(self, number: int) -> dict[str, Any]:
        start = number * self.per_task
        rows = self.rows[start : start + self.per_task]
        images = self.source.read(rows)
        hashes, informative = hash_images(images.pixels_BCSS)
        return {
            "start": start,
            "rows": len(rows),
            "places": np.flatnonzero(np.isin(rows, images.rows_B)).tolist(),  # what was read keeps its order
            "hashes": hashes.tolist(),
            "informative": informative.tolist(),
            "rejects": images.rejects,
        }
