"""Starting or joining Ray with settings that suit image training."""

import logging
import os
from typing import Any

from hpa_ray.cluster.address import expect_answer, find_cluster, ray_temp
from hpa_ray.cluster.data import keep_statistics_here
from hpa_ray.cluster.placement import alive, capacity, capacity_of
from hpa_ray.errors import InputError

DATA_CPUS = 2
"""Logical CPUs that stay free for Ray Data beside the train workers: without any it never starts."""

ANSWER_WITHIN_S = 10.0
"""Long enough for a head that restarts. ray.init itself waits for minutes."""

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

    Ray's ports listen on all addresses of a machine, and whoever may use them may run code: they ask for a token,
    which Ray makes in ~/.ray/auth_token when it starts here and looks for there (or in RAY_AUTH_TOKEN) when it joins,
    unless RAY_AUTH_MODE=disabled, which is for machines that nobody else can reach. In turn a cluster may run code in
    whoever joins it, and gets the keys of the storage: one of another user is joined by RAY_ADDRESS only.

    Raises InputError if no Ray answers where one should be, or the cluster can never hold num_workers train workers.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    import ray  # reads the environment when it is imported

    cores = available_cpus()
    if not ray.is_initialized():
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        found = find_cluster(ray_temp())
        if found is not None:
            expect_answer(found, within_s=ANSWER_WITHIN_S)
            try:
                ray.init(address=found.address, **settings)
            except ConnectionError as error:
                why = str(error).strip().partition("\n")[0]
                raise InputError(f"{found.known_by}: {why} - run this on a machine of that cluster") from None
        else:
            if num_workers > cores:
                raise _too_many(num_workers, f"this machine has {cores} CPUs")
            # a worker keeps a core busy whatever Ray counts; Data tasks share with it rather than wait for ever
            num_cpus = max(cores, num_workers + DATA_CPUS)
            # the dashboard is one more port, and half the memory that Ray takes; who wants it: `ray start --head`
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **settings)
    if num_workers:
        _check_fits(num_workers, use_gpu=use_gpu, cores=cores)
        keep_statistics_here()


def _check_fits(num_workers: int, *, use_gpu: bool | None, cores: int) -> None:
    nodes = alive()
    training, data = capacity_of(nodes, "training"), capacity_of(nodes, "data")
    cpus = f"the cluster has {training.cpus} CPUs{' for training' if training.is_apart else ''}"
    if num_workers > training.cpus:
        raise _too_many(num_workers, cpus)
    if num_workers == training.cpus and not data.is_apart:
        raise _too_many(num_workers, f"{cpus}, and reading the data takes one of them")
    if data.is_apart and not data.cpus:
        raise InputError("the nodes that are to read the data have no CPU: start them with --num-cpus")
    if len(nodes) == 1 and num_workers > cores and not training.is_apart:
        raise _too_many(num_workers, f"this machine has {cores} CPUs")
    if use_gpu and num_workers > training.gpus:
        raise _too_many(num_workers, f"train.use_gpu=true, and the cluster has {training.gpus} GPUs")


def num_gpus() -> int:
    """For training, in the whole cluster."""
    return capacity("training").gpus


def has_gpus(num_workers: int) -> bool:
    return num_gpus() >= num_workers


def _too_many(num_workers: int, limit: str) -> InputError:
    return InputError(f"train.num_workers = {num_workers}, but {limit}: use fewer workers or a larger cluster")
