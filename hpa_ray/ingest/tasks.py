"""Many independent tasks, each giving one small result: on every CPU of a Ray cluster, or on threads without Ray."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np

from hpa_ray import cluster
from hpa_ray.errors import InputError


def run_tasks(
    work: Callable[[int], dict[str, Any]], numbers: Sequence[int], *, num_workers: int | None
) -> Iterator[dict[str, Any]]:
    """Results of work(number), plain values for JSON, in the order in which they are done. An InputError is passed on.

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
    if not numbers:
        return
    cluster.start_ray()  # not before there is work: mistakes are found earlier, and there may be nothing left to do
    import ray.data

    def one(batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        try:
            return {"result": [json.dumps(work(numbers[int(batch["id"][0])]))]}
        except InputError as error:  # as a value: Ray would wrap it in errors of its own and lose it
            return {"result": [json.dumps({"mistake": error.problems})]}

    with ray.data.DataContext.current(cluster.data_context()):
        tasks = ray.data.range(len(numbers), override_num_blocks=len(numbers))
        compute = ray.data.TaskPoolStrategy(size=num_workers) if num_workers else None
        results = tasks.map_batches(one, batch_size=1, compute=compute)
    for row in results.iter_rows():
        result = json.loads(row["result"])
        if "mistake" in result:
            raise InputError(*result["mistake"])
        yield result
