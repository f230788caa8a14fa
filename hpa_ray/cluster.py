"""Starting or joining Ray with settings that suit image training."""

import logging
import os
from typing import Any

from hpa_ray import storage
from hpa_ray.errors import InputError

DATA_CPUS = 2
"""Logical CPUs that stay free for Ray Data beside the train workers: without any it never starts."""

SHARED_KEPT = 16
"""Values of `share` that a process holds on to; their arrays stay in Ray's object store and are not copied."""

ENVIRONMENT = {
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",  # unset, a rank that never reports would be waited for for ever
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, every worker would install the environment anew
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Defaults of Ray that hurt here; what the user has set stays."""


def available_cpus() -> int:
    """CPUs that this process may use: fewer than the machine has, under taskset, Slurm or in some containers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_ray(num_workers: int = 0, *, use_gpu: bool | None = None) -> None:
    """Join the cluster at RAY_ADDRESS or a running one of this machine, else start Ray here; once per process.

    Raises InputError if the cluster can never hold num_workers train workers.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    import ray  # reads the environment when it is imported

    cores = available_cpus()
    if not ray.is_initialized():
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            ray.init(address="auto", **settings)
        except ConnectionError:  # no cluster to join
            if address := os.environ.get("RAY_ADDRESS"):
                raise InputError(
                    f"RAY_ADDRESS = {address}: no Ray cluster answers there - start it, or unset RAY_ADDRESS"
                ) from None
            if num_workers > cores:
                raise _too_many(num_workers, f"this machine has {cores} CPUs") from None
            # a worker keeps a core busy whatever Ray counts; Data tasks share with it rather than wait for ever
            ray.init(num_cpus=max(cores, num_workers + DATA_CPUS), **settings)
    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 0))
    if num_workers and cpus < num_workers + 1:
        raise _too_many(num_workers, f"the cluster has {cpus} CPUs, and reading the data takes one of them")
    if num_workers > cpus - 1 or (len(ray.nodes()) == 1 and num_workers > cores):
        raise _too_many(num_workers, f"this machine has {cores} CPUs")
    gpus = int(resources.get("GPU", 0))
    if use_gpu and num_workers > gpus:
        raise _too_many(num_workers, f"train.use_gpu=true, and the cluster has {gpus} GPUs")


def data_context(*, in_order: bool = False) -> Any:
    """A copy of Ray Data's settings with its own screen output off; in_order keeps rows in their order."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it announces every execution, and that its bars are off
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = in_order
    context.execution_options.verbose_progress = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def share(value: Any) -> Any:
    """Put a value into Ray's object store, once for all tasks: manifests are too large for what tasks carry along.

    With it goes how this process reaches object stores.
    """
    import ray

    return ray.put((storage.settings(), value))


def shared(reference: Any) -> Any:
    """In a worker: the value behind a reference of `share`, fetched once per process.

    A process keeps the last few: the pipelines of all train workers of a run share the processes that read.
    """
    import ray

    key = reference.hex()
    if key not in _shared:
        while len(_shared) >= SHARED_KEPT:
            del _shared[next(iter(_shared))]
        _shared[key] = ray.get(reference)
    settings, value = _shared[key]
    storage.configure(settings)
    return value


_shared: dict[str, tuple[storage.Settings, Any]] = {}


def num_gpus() -> int:
    """Of the whole cluster."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def has_gpus(num_workers: int) -> bool:
    return num_gpus() >= num_workers


def _too_many(num_workers: int, limit: str) -> InputError:
    return InputError(f"train.num_workers = {num_workers}, but {limit}: use fewer workers or a larger cluster")
