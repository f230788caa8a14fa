"""Starting or joining Ray with settings that suit image training."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
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

    Ray's ports listen on all addresses of a machine, and whoever may use them may run code: they ask for a token,
    which Ray makes in ~/.ray/auth_token when it starts here and looks for there (or in RAY_AUTH_TOKEN) when it joins,
    unless RAY_AUTH_MODE=disabled, which is for machines that nobody else can reach. In turn a cluster may run code in
    whoever joins it, and gets the keys of the storage: one of another user is joined by RAY_ADDRESS only.

    Raises InputError if the cluster can never hold num_workers train workers.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    import ray  # reads the environment when it is imported

    cores = available_cpus()
    if not ray.is_initialized():
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = os.environ.get("RAY_ADDRESS")
        try:
            if not address and others_run_ray():
                raise ConnectionError
            ray.init(address="auto", **settings)
        except ConnectionError:  # no cluster to join
            if address:
                raise InputError(
                    f"RAY_ADDRESS = {address}: no Ray cluster answers there - start it, or unset RAY_ADDRESS"
                ) from None
            if num_workers > cores:
                raise _too_many(num_workers, f"this machine has {cores} CPUs") from None
            # a worker keeps a core busy whatever Ray counts; Data tasks share with it rather than wait for ever
            num_cpus = max(cores, num_workers + DATA_CPUS)
            # the dashboard is one more port, and half the memory that Ray takes; who wants it: `ray start --head`
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **settings)
    resources = ray.cluster_resources()
    cpus = int(resources.get("CPU", 0))
    if num_workers and cpus < num_workers + 1:
        raise _too_many(num_workers, f"the cluster has {cpus} CPUs, and reading the data takes one of them")
    if num_workers > cpus - 1 or (len(ray.nodes()) == 1 and num_workers > cores):
        raise _too_many(num_workers, f"this machine has {cores} CPUs")
    gpus = int(resources.get("GPU", 0))
    if use_gpu and num_workers > gpus:
        raise _too_many(num_workers, f"train.use_gpu=true, and the cluster has {gpus} GPUs")


def others_run_ray(
    processes: Path = Path("/proc"), mark: Path | None = None, trusted: Collection[int] | None = None
) -> bool:
    """Whether Ray might find a cluster on this machine that was started by another user than this one and root.

    It looks at all processes, and into a file of a folder that everybody may write to.
    """
    if not hasattr(os, "getuid"):
        return False
    trusted = trusted or (0, os.getuid())
    mark = mark or Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "ray_current_cluster")
    found = [path for path in processes.glob("[0-9]*/cmdline") if _is_raylet(path)]
    for path in (*found, mark):
        with contextlib.suppress(OSError):  # it has ended, or there is none
            if path.stat().st_uid not in trusted:
                return True
    return False


def _is_raylet(command: Path) -> bool:
    try:
        return os.path.basename(command.read_bytes().partition(b"\0")[0]) == b"raylet"
    except OSError:  # it has ended, or is hidden
        return False


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
