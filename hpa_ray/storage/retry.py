"""Which failures are tried again, how often and after which pauses. Before: the backends of storage/files."""

import errno
import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from hpa_ray.storage.settings import add_retries, settings
from hpa_ray.storage.uris import shown

T = TypeVar("T")

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 20.0
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


class Transient(Exception):
    """A failure that a repeat may get past; its text is the reason in a few words."""


class Waiting(NamedTuple):
    """Time and chance, so that tests can do without either."""

    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.Random().random
    """From [0, 1); its own generator, for the seeds of training are nobody else's business."""


def retried(uri: str, call: Callable[[], T], waiting: Waiting = Waiting()) -> T:  # noqa: B008 - it holds no state
    """The result of `call`, repeated while it raises Transient and attempts are left; every repeat is counted.

    Raises OSError with the last reason when they are used up; anything else that `call` raises passes at once.
    """
    attempts = settings().max_attempts
    failures = 0
    while True:
        try:
            return call()
        except Transient as failure:
            failures += 1
            if failures >= attempts:
                times = f"{attempts} attempts" if attempts > 1 else "1 attempt"
                raise OSError(errno.EIO, f"{failure} - given up after {times}", shown(uri)) from failure
            waiting.sleep(pause_s(failures, waiting.draw()))
            add_retries(1)


def pause_s(failures: int, draw: float) -> float:
    """Exponential backoff with full jitter: workers that were throttled together must not come back together.

    Six attempts wait 4 s on average, 8 s at most: a store that throttles recovers in about that time.
    """
    return draw * float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30)))
