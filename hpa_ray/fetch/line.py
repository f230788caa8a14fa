"""One polite line to a web server: paced, patient, and never trusting an answer. After: fetch/unit.

Every request counts, repeats and redirects too. Those of one `Pace` start at least an interval apart, the first one an
interval after the pace began. A Ray task has a pace of its own with N intervals of the whole (N tasks run at a time),
so over all tasks at most N requests start in any N / requests_per_s seconds, however often tasks begin and end.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import NamedTuple
from urllib.parse import urljoin

import requests
import urllib3

from hpa_ray import __version__
from hpa_ray.ingest.decode import DecodeError
from hpa_ray.storage.retry import retry_after
from hpa_ray.storage.web_rules import MAX_REDIRECTS, cause, check_redirect

USER_AGENT = f"hpa_ray/{__version__} (downloads images to train classifiers of protein location)"
SLACK = 1.02
"""The pace is this much slower than allowed: on their way two requests may come closer to each other."""
NOT_AVAILABLE = "not available"
"""How the reason of an image begins that the server does not have; such an image is not asked for again."""
MAX_FILE_BYTES = 256 * 2**20
MAX_TIMEOUTS_PER_ANSWER = 10
"""An answer that comes drop by drop ends after this many times timeout_s."""
CHUNK_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Manners:
    """How a server is treated."""

    requests_per_s: float = 4.0
    max_attempts: int = 6
    timeout_s: float = 30.0
    backoff_s: float = 1.0
    """Pause before the first repeat; it doubles with each one, and half of it is drawn at random."""
    max_pause_s: float = 120.0
    """No pause is longer, whatever the server asks for."""


class Unavailable(Exception):
    """The server does not have the file: 404 or 410."""


class Refused(Exception):
    """The server does not give the file to us: 401 or 403."""


class GivenUp(Exception):
    """Asking again now is of no use. `kind` is the reason in few words, the same for all files that it befalls."""

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Stopped(Exception):
    """This process is to end."""


class Passing(Exception):
    """A fault that may be gone at the next attempt."""

    def __init__(self, kind: str, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind, self.retry_after_s = kind, retry_after_s


class Answer(NamedTuple):
    data: bytes
    content_type: str


class Pace:
    """When the next request may start, over all threads that share the pace."""

    def __init__(self, requests_per_s: float) -> None:
        self.interval_s = SLACK / requests_per_s
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._next = time.monotonic() + self.interval_s

    def wait(self) -> None:
        """Return when a request may start. Raises Stopped."""
        with self._lock:  # held while sleeping: the next interval begins when this one really ended
            self.sleep(self._next - time.monotonic())
            self._next = time.monotonic() + self.interval_s

    def hold(self, seconds: float) -> None:
        """No request for this long: the server asked for it."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        if self.stop.wait(max(seconds, 0.0)):
            raise Stopped


class Line:
    """A session with a pace; threads may share it. Close it after use."""

    def __init__(self, manners: Manners, pace: Pace, *, connections: int) -> None:
        self.manners, self.pace = manners, pace
        self._slots = threading.BoundedSemaphore(connections)
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"})
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=connections, max_retries=0))

    def close(self) -> None:
        self._session.close()

    def get(self, url: str, check: Callable[[bytes], object], *, on_retry: Callable[[str], None]) -> Answer:
        """The whole file, once `check` finds nothing wrong with it (DecodeError says what is).

        on_retry(reason in few words) is called before each repeat. Raises Unavailable, Refused, GivenUp or Stopped.
        """
        attempt = 0
        while True:
            try:
                answer = self._follow(url)
                try:
                    check(answer.data)
                except DecodeError as error:
                    raise Passing("damaged file", str(error)) from error
                return answer
            except Passing as fault:
                attempt += 1
                if attempt == self.manners.max_attempts:
                    raise GivenUp(f"given up after {attempt} attempts: {fault}", fault.kind) from fault
                on_retry(fault.kind)
                self.pace.sleep(self._pause(attempt, fault.retry_after_s))

    def _pause(self, attempt: int, retry_after_s: float | None) -> float:
        longest = self.manners.max_pause_s
        if retry_after_s is not None:
            self.pace.hold(min(retry_after_s, longest))  # for all: the others would be told the same
            return min(retry_after_s, longest)
        return min(self.manners.backoff_s * 2.0 ** (attempt - 1), longest) * random.uniform(0.5, 1.0)

    def _follow(self, url: str) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            with self._slots:
                self.pace.wait()
                answer = self._once(url)
            if isinstance(answer, Answer):
                return answer
            try:
                check_redirect(url, answer)
            except ValueError as error:
                raise GivenUp(str(error), "redirect") from error
            url = answer
        raise GivenUp(f"redirected more than {MAX_REDIRECTS} times", "redirect")

    def _once(self, url: str) -> Answer | str:
        """One request: the answer, or the address it is redirected to."""
        timeout_s = self.manners.timeout_s
        try:
            with self._session.get(url, stream=True, allow_redirects=False, timeout=(timeout_s, timeout_s)) as response:
                if response.is_redirect:
                    return urljoin(url, response.headers["location"])
                _check_status(response)
                data = _body(response.raw, time.monotonic() + MAX_TIMEOUTS_PER_ANSWER * timeout_s)
                return Answer(data, response.headers.get("Content-Type", ""))
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise GivenUp(f"no web address ({error})", "redirect") from error
        except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise Passing("timeout", f"{timeout_s:g} s without an answer") from error
        except urllib3.exceptions.ProtocolError as error:  # only while the body is read
            raise Passing("truncated answer", str(error)[:100]) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Passing("connection lost", " ".join(cause(error).split())[:100]) from error


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
        if int(response.headers.get("Content-Length") or CHUNK_BYTES) < CHUNK_BYTES:
            response.raw.read()  # a short error page, so that the connection can be used again
    if status in (404, 410):
        raise Unavailable(f"{NOT_AVAILABLE} ({status})")
    if status in (401, 403):
        raise Refused(f"refused ({status})")
    if status in (408, 425, 429) or status >= 500:
        raise Passing(f"status {status}", retry_after_s=retry_after(response.headers.get("Retry-After")))
    raise GivenUp(f"the server answered with status {status}", f"status {status}")


def _body(raw: urllib3.response.BaseHTTPResponse, deadline: float) -> bytes:
    """The whole body. Raises Passing if less arrives than was announced, or if it takes for ever."""
    chunks, size = [], 0
    while chunk := raw.read1(CHUNK_BYTES, decode_content=True):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise GivenUp(f"larger than {MAX_FILE_BYTES / 2**20:.0f} MiB", "size")
        if time.monotonic() > deadline:
            raise Passing("timeout", "the answer came too slowly")
    announced = raw.headers.get("Content-Length")
    if announced is not None and announced.isdigit() and raw.tell() != int(announced):
        raise Passing("truncated answer", f"{raw.tell():,} of {int(announced):,} bytes")
    return b"".join(chunks)
