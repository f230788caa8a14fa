"""The threads of this process that wait for remote storage. Before: storage/many, storage/objects, shards/reader."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hpa_ray.storage.settings import settings

S = TypeVar("S")
T = TypeVar("T")

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}
"""By size. Kept: sixteen new threads for every call cost 6 ms, and those that stay keep their connections."""


def pool() -> ThreadPoolExecutor:
    """Settings.concurrency threads, which all calls in this process share: what runs in them must not wait for them."""
    concurrency = settings().concurrency
    with _lock:
        if concurrency not in _pools:
            _pools[concurrency] = ThreadPoolExecutor(concurrency, thread_name_prefix="storage")
        return _pools[concurrency]


def concurrently(call: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """What `call` gives for each item, in order. Raises what the first of them raises; the rest is not begun."""
    return list(pool().map(call, items)) if items else []
