"""What the tasks and pipelines of Ray Data get from the process that starts them."""

import logging
from typing import Any

from hpa_ray import storage
from hpa_ray.cluster.placement import selector

SHARED_KEPT = 16
"""Values of `share` that a process holds on to; their arrays stay in Ray's object store and are not copied."""


def data_context(*, in_order: bool = False) -> Any:
    """A copy of Ray Data's settings: on nodes for data if there are any, without output; in_order: rows keep theirs."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it announces every execution, and that its bars are off
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.label_selector = selector("data")
    context.execution_options.preserve_order = in_order
    context.execution_options.verbose_progress = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def keep_statistics_here() -> None:
    """Start Ray Data's actor for statistics on the node of this process, which stays: the driver's.

    There is one per cluster, it never ends, and it is where data was read first. That is a train worker's node
    otherwise, which the autoscaler would never take away again.
    """
    from ray.data._internal.stats import get_or_create_stats_actor

    get_or_create_stats_actor()


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
