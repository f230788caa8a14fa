"""Many independent tasks, each giving one small result: on every CPU of a Ray cluster, or on threads without Ray."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np

from hpa_ray import cluster


def run_tasks(
    work: Callable[[int], dict[str, Any]], numbers: Sequence[int], *, num_workers: int | None
) -> Iterator[dict[str, Any]]:
    """Results of work(number) in the order in which they are done.

    num_workers: 0 runs on threads of this process (decoding and copying release the interpreter lock); otherwise each
    number is one Ray Data task, at most num_workers at a time.
    """
    if num_workers == 0:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            futures = [pool.submit(work, number) for number in numbers]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)
        return
    import ray.data  # seconds to import, and not needed above

    def one(batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        results = [work(numbers[int(position)]) for position in batch["id"]]
        return {key: [result[key] for result in results] for key in results[0]}

    if not numbers:
        return
    with ray.data.DataContext.current(cluster.data_context()):
        tasks = ray.data.range(len(numbers), override_num_blocks=len(numbers))
        compute = ray.data.TaskPoolStrategy(size=num_workers) if num_workers else None
        results = tasks.map_batches(one, batch_size=1, compute=compute)
    with cluster.plain_mistakes():
        yield from results.iter_rows()
