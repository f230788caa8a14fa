"""Many small files in the order asked for, several requests under way. After: storage/files."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from hpa_ray.storage.files import read_bytes
from hpa_ray.storage.retry import Unreachable
from hpa_ray.storage.settings import settings
from hpa_ray.storage.threads import pool
from hpa_ray.storage.uris import is_local

AHEAD = 2
"""Files asked for and not yet taken, per request in flight: enough that a slow consumer never stops the requests."""


def read_many(uris: Sequence[str]) -> Iterator[bytes | OSError]:
    """The content of each file, or why it can not be read, in order. Raises Unreachable: that is no file's fault.

    Remote files are fetched ahead of the consumer by Settings.concurrency threads, which all calls in this process
    share; at most twice as many files are held. Local ones are read when their turn comes.
    """
    held = 1 if all(is_local(uri) for uri in uris) else AHEAD * settings().concurrency
    waiting: deque[str | Future[bytes | OSError]] = deque()
    try:
        for uri in uris:
            waiting.append(uri if is_local(uri) else pool().submit(_read, uri))
            if len(waiting) >= held:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        for item in waiting:  # the consumer has stopped
            if isinstance(item, Future):
                item.cancel()


def _result(item: "str | Future[bytes | OSError]") -> bytes | OSError:
    return _read(item) if isinstance(item, str) else item.result()


def _read(uri: str) -> bytes | OSError:
    try:
        return read_bytes(uri)
    except Unreachable:
        raise
    except OSError as error:
        return error
