"""Which failures are tried again, how often and after which pauses. Before: the backends of storage/files."""

import email.utils
import errno
import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from hpa_ray.storage.settings import add_retries, is_abandoned, pause, settings
from hpa_ray.storage.uris import shown

T = TypeVar("T")

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 20.0
LONGEST_ASKED_PAUSE_S = 60.0
"""Of what a server asks for by Retry-After, so much is granted."""
SLOWEST_BYTES_PER_S = 5e4
"""An answer that comes more slowly, for longer than Settings.timeout_s, might never end."""


class Transient(Exception):
    """A failure that a repeat may get past; its text is the reason in a few words.

    hint: what to do about it, if it is a denial.
    """

    def __init__(self, reason: str, *, wait_s: float = 0.0, hint: str = "") -> None:
        super().__init__(reason)
        self.wait_s, self.hint = wait_s, hint


class Unreachable(OSError):
    """Given up after all repeats: it is the place that fails, not the one file that was asked for."""


class Denied(Unreachable, PermissionError):
    """The place has granted such requests before and now refuses them, as when credentials have run out."""


class Waiting(NamedTuple):
    """Time and chance, so that tests can do without either."""

    sleep: Callable[[float], None] = pause
    draw: Callable[[], float] = random.Random().random
    """From [0, 1); its own generator, for the seeds of training are nobody else's business."""


def retried(uri: str, call: Callable[[], T], waiting: Waiting = Waiting()) -> T:  # noqa: B008 - it holds no state
    """The result of `call`, repeated while it raises Transient and attempts are left; every repeat is counted.

    Raises Unreachable with the last reason when they are used up; anything else that `call` raises passes at once.
    """
    attempts = settings().max_attempts
    failures = 0
    while True:
        try:
            return call()
        except Transient as failure:
            failures += 1
            if failures >= attempts or is_abandoned():
                times = f"{failures} attempts" if failures > 1 else "1 attempt"
                told = f"{failure} - given up after {times}"
                if failure.hint:
                    raise Denied(errno.EACCES, f"access denied ({told}): {failure.hint}", shown(uri)) from failure
                raise Unreachable(errno.EIO, told, shown(uri)) from failure
            asked_s = min(failure.wait_s, LONGEST_ASKED_PAUSE_S)
            waiting.sleep(asked_s + pause_s(failures, waiting.draw()))
            add_retries(1)


def pause_s(failures: int, draw: float) -> float:
    """Exponential backoff with full jitter: workers that were throttled together must not come back together.

    Ten attempts wait 36 s on average, 72 s at most: time for a store to take on more load, or to be started again.
    """
    return draw * float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30)))


def is_passing(status: int) -> bool:
    """Whether a request may be answered otherwise when it is sent again; beyond 505 are those of gateways."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


def retry_after(header: str | None) -> float | None:
    """Seconds to wait, of a header that holds seconds or a date; None where there is none that can be read."""
    if header is None:
        return None
    try:
        return max(float(header), 0.0) if header.strip().isdigit() else max(_until(header), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def _until(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
