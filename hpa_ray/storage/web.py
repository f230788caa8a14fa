"""Files of web servers, http:// and https://: read only. Before: storage/files."""

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from typing import TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import pyarrow as pa
import requests
import urllib3

from hpa_ray.errors import InputError
from hpa_ray.storage.remote import RemoteFile, check_length
from hpa_ray.storage.retry import SLOWEST_BYTES_PER_S, Transient, is_passing, retried, retry_after
from hpa_ray.storage.settings import settings
from hpa_ray.storage.uris import shown
from hpa_ray.storage.web_rules import LARGEST_BYTES, MAX_REDIRECTS, cause, check_redirect, check_size

T = TypeVar("T")

PLAIN = {"Accept-Encoding": "identity"}
"""Not compressed on the way, so that the announced length is that of the file."""
CHUNK_BYTES = 256 * 2**10
MAX_TIMEOUTS_PER_ANSWER = 10
"""An answer of unknown length that comes drop by drop ends after this many times Settings.timeout_s."""


class WebFiles:
    """Implements remote.Backend for web servers."""

    def __init__(self) -> None:
        self._own = threading.local()  # a session must not be used by two threads at once

    def read(self, uri: str) -> bytes:
        return self._get(uri, {}, _body)

    def open(self, uri: str) -> RemoteFile:
        # not HEAD, which a signature for GET does not allow
        num_bytes = self._get(uri, {"Range": "bytes=0-0"}, _total_size)

        def read_range(start: int, length: int) -> bytes:
            def content(answer: requests.Response) -> bytes:
                if answer.status_code != 206:
                    raise OSError(errno.ENOTSUP, "the server does not give parts of files", shown(uri))
                return check_length(_body(answer, at_most=length), length)

            return self._get(uri, {"Range": f"bytes={start}-{start + length - 1}"}, content)

        return RemoteFile(uri, num_bytes, read_range)

    def write(self, uri: str, data: "bytes | pa.Buffer") -> None:
        raise InputError(f"{shown(uri)}: web servers are only read - give a folder or s3://BUCKET/FOLDER")

    def list(self, uri: str) -> dict[str, int]:
        """The links of a page to what is directly below it."""
        base, question, query = uri.partition("?")
        folder = f"{base.rstrip('/')}/"
        page = self._get(folder + question + query, {}, lambda answer: (answer.url, _body(answer), answer.headers))
        if "html" not in page[2].get("Content-Type", ""):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), shown(uri))
        links = _Links()
        links.feed(page[1].decode(errors="replace"))
        here = urlsplit(page[0])
        names = {}
        for link in links.found:
            there = urlsplit(urljoin(page[0], link))
            name = there.path.removeprefix(here.path)
            if there.netloc == here.netloc and there.path != name and name and "/" not in name:
                names[unquote(name)] = 0
        return names

    def exists(self, uri: str) -> bool:
        try:
            self._get(uri, {"Range": "bytes=0-0"}, lambda answer: None)
        except FileNotFoundError:
            return False
        return True

    def remove(self, uris: Sequence[str]) -> None:
        raise InputError(f"{shown(uris[0])}: web servers are only read")

    def _get(self, uri: str, headers: dict[str, str], use: Callable[[requests.Response], T]) -> T:
        def attempt() -> T:
            timeout = (min(settings().timeout_s, 10), settings().timeout_s)  # to connect, without a byte
            try:
                with self._follow(uri, PLAIN | headers, timeout) as answer:
                    _check_status(uri, answer)
                    return use(answer)
            except requests.exceptions.InvalidURL as error:
                raise InputError(f"{shown(uri)}: is no web address") from error
            except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
                raise Transient(f"no answer within {settings().timeout_s:g} s (storage.timeout_s)") from error
            except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
                raise Transient(cause(error)) from error  # its own text has the URL, and that a signature

        return retried(uri, attempt)

    def _follow(self, uri: str, headers: dict[str, str], timeout: tuple[float, float]) -> requests.Response:
        """The answer behind as many redirects as web_rules allows."""
        where = uri
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._session().get(where, headers=headers, timeout=timeout, stream=True, allow_redirects=False)
            if not answer.is_redirect:
                return answer
            answer.close()
            following = urljoin(where, answer.headers["location"])
            try:
                check_redirect(where, following)
            except ValueError as error:
                raise OSError(errno.EACCES, str(error), shown(uri)) from error
            where = following
        raise OSError(errno.ELOOP, f"redirected more than {MAX_REDIRECTS} times", shown(uri))

    def _session(self) -> requests.Session:
        if not hasattr(self._own, "session"):
            self._own.session = requests.Session()
        session: requests.Session = self._own.session
        return session


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _check_status(uri: str, answer: requests.Response) -> None:
    status, what = answer.status_code, f"{answer.status_code} {answer.reason}".strip()
    if is_passing(status):
        raise Transient(what, wait_s=retry_after(answer.headers.get("Retry-After")) or 0.0)
    if status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown(uri))
    if status in (401, 403):
        raise PermissionError(errno.EACCES, f"access denied ({what}): a signature may have run out", shown(uri))
    if status == 416:  # of an empty file no byte can be asked for
        return
    if not answer.ok:
        raise OSError(errno.EIO, what, shown(uri))


def _body(answer: requests.Response, at_most: int = LARGEST_BYTES) -> bytes:
    """The whole body. Raises Transient if it is cut short, or comes so slowly that it might never end.

    Raises OSError if it is longer than it may be.
    """
    length, limit_s = answer.headers.get("Content-Length", ""), settings().timeout_s
    limit_s += int(length) / SLOWEST_BYTES_PER_S if length.isdecimal() else (MAX_TIMEOUTS_PER_ANSWER - 1) * limit_s
    end = time.monotonic() + limit_s
    chunks, size = [], 0
    while chunk := answer.raw.read1(CHUNK_BYTES, decode_content=True):  # what has come so far
        chunks.append(chunk)
        size += len(chunk)
        check_size(answer, size, at_most)
        if time.monotonic() > end:
            raise Transient(f"no whole answer within {limit_s:g} s (storage.timeout_s)")
    data = b"".join(chunks)
    encoded = "Content-Encoding" in answer.headers
    return check_length(data, int(length)) if length.isdecimal() and not encoded else data


def _total_size(answer: requests.Response) -> int:
    if answer.status_code == 200:  # the server gives no parts; the body is not read
        size = answer.headers.get("Content-Length", "0")
    else:
        size = answer.headers.get("Content-Range", "*/0").rpartition("/")[2]
    if not size.isdecimal():
        raise OSError(errno.ENOTSUP, "the server does not say how large the file is", shown(answer.url))
    return int(size)
