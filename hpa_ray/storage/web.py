"""Files of web servers, http:// and https://: read only. Before: storage/files."""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from typing import Any, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import pyarrow as pa
import requests

from hpa_ray.errors import InputError
from hpa_ray.storage.remote import RemoteFile, check_length
from hpa_ray.storage.retry import TRANSIENT_STATUS, Transient, retried
from hpa_ray.storage.settings import settings
from hpa_ray.storage.uris import shown

T = TypeVar("T")

PLAIN = {"Accept-Encoding": "identity"}
"""Not compressed on the way, so that the announced length is that of the file."""


class WebFiles:
    """Implements remote.Backend for web servers."""

    def __init__(self) -> None:
        self._own = threading.local()  # a session must not be used by two threads at once

    def read(self, uri: str) -> bytes:
        return self._get(uri, {}, lambda answer: answer.content)

    def open(self, uri: str) -> RemoteFile:
        # not HEAD, which a signature for GET does not allow
        num_bytes = self._get(uri, {"Range": "bytes=0-0"}, _total_size)

        def read_range(start: int, length: int) -> bytes:
            def content(answer: requests.Response) -> bytes:
                if answer.status_code != 206:
                    raise OSError(errno.ENOTSUP, "the server does not give parts of files", shown(uri))
                return check_length(answer.content, length)

            return self._get(uri, {"Range": f"bytes={start}-{start + length - 1}"}, content)

        return RemoteFile(uri, num_bytes, read_range)

    def write(self, uri: str, data: "bytes | pa.Buffer") -> None:
        raise InputError(f"{shown(uri)}: web servers are only read - give a folder or s3://BUCKET/FOLDER")

    def list(self, uri: str) -> dict[str, int]:
        """The links of a page to what is directly below it."""
        base, question, query = uri.partition("?")
        folder = f"{base.rstrip('/')}/"
        page = self._get(folder + question + query, {}, lambda answer: (answer.url, answer.content, answer.headers))
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
                with self._session().get(uri, headers=PLAIN | headers, timeout=timeout, stream=True) as answer:
                    _check_status(uri, answer)
                    return use(answer)
            except requests.exceptions.InvalidURL as error:
                raise InputError(f"{shown(uri)}: is no web address") from error
            except requests.exceptions.Timeout as error:
                raise Transient(f"no answer within {settings().timeout_s:g} s") from error
            except requests.exceptions.RequestException as error:  # its text has the URL, and that a signature
                raise Transient(_cause(error)) from error

        return retried(uri, attempt)

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
    if status in TRANSIENT_STATUS:
        raise Transient(what)
    if status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown(uri))
    if status in (401, 403):
        raise PermissionError(errno.EACCES, f"access denied ({what}): a signature may have run out", shown(uri))
    if status == 416:  # of an empty file no byte can be asked for
        return
    if not answer.ok:
        raise OSError(errno.EIO, what, shown(uri))


def _total_size(answer: requests.Response) -> int:
    if answer.status_code == 200:  # the server gives no parts; the body is not read
        return int(answer.headers.get("Content-Length", 0))
    return int(answer.headers.get("Content-Range", "*/0").rpartition("/")[2])


def _cause(error: BaseException) -> str:
    """The name and text of the innermost error: those around it repeat the address."""
    inner: Any = error
    while inner.__cause__ or inner.__context__ or (inner.args and isinstance(inner.args[0], BaseException)):
        inner = inner.__cause__ or inner.__context__ or inner.args[0]
    return f"{type(inner).__name__}: {inner}"[:200]
