"""Many independent tasks, each giving one small result: on every CPU of a Ray cluster, or on threads without Ray."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import numpy as np

from hpa_ray import cluster, storage
from hpa_ray.errors import InputError


def run_tasks(
    work: Callable[[int], dict[str, Any]], numbers: Sequence[int], *, num_workers: int | None
) -> Iterator[dict[str, Any]]:
    """Results of work(number), plain values for JSON, in the order in which they are done.

    An InputError is passed on, and what the system or a store says of a place, as an OSError.

    num_workers: 0 runs on threads of this process (decoding and copying release the interpreter lock); otherwise each
    number is one Ray Data task, at most num_workers at a time. Repeats of storage requests are counted here.
    """
    if num_workers == 0:
        yield from _on_threads(work, numbers)
    elif numbers:
        cluster.start_ray()  # not before there is work: mistakes are found earlier, and there may be nothing left to do
        yield from _on_ray(work, numbers, num_workers)


def _on_threads(work: Callable[[int], dict[str, Any]], numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(cluster.available_cpus()) as pool:
        futures = {pool.submit(work, number) for number in numbers[: 2 * cluster.available_cpus()]}
        waiting = iter(numbers[len(futures) :])
        try:
            while futures:
                done, futures = wait(futures, return_when=FIRST_COMPLETED)
                futures |= {pool.submit(work, number) for number in islice(waiting, len(done))}
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _on_ray(
    work: Callable[[int], dict[str, Any]], numbers: Sequence[int], num_workers: int | None
) -> Iterator[dict[str, Any]]:
    import ray.data

    reference = cluster.share((work, numbers))

    def one(batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        worker_work, worker_numbers = cluster.shared(reference)
        answer: dict[str, Any] = {}
        try:
            answer["result"] = worker_work(worker_numbers[int(batch["id"][0])])
        except InputError as error:  # as values: Ray would wrap them in errors of its own and lose them
            answer["mistake"] = error.problems
        except OSError as error:
            if not error.filename:
                raise
            answer["failure"] = [error.errno, error.strerror, str(error.filename)]
        return {"answer": [json.dumps(answer | {"retries": storage.take_retries()})]}

    with ray.data.DataContext.current(cluster.data_context()):
        tasks = ray.data.range(len(numbers), override_num_blocks=len(numbers))
        compute = ray.data.TaskPoolStrategy(size=num_workers) if num_workers else None
        answers = tasks.map_batches(one, batch_size=1, compute=compute)
    for row in answers.iter_rows():
        answer = json.loads(row["answer"])
        storage.add_retries(answer["retries"])
        if "mistake" in answer:
            raise InputError(*answer["mistake"])
        if "failure" in answer:
            raise OSError(*answer["failure"])
        yield answer["result"]
