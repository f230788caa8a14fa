"""Rarer places: hdfs:// and abfs:// through pyarrow, every other scheme through fsspec. Needs what those need.

Their clients have errors of their own kinds, and few of them know how long to wait: both are seen to here.
"""

import errno
import functools
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from hpa_ray.errors import InputError
from hpa_ray.storage.remote import RemoteFile, check_length
from hpa_ray.storage.retry import SLOWEST_BYTES_PER_S, Transient, retried
from hpa_ray.storage.settings import settings
from hpa_ray.storage.uris import scheme_of, shown, split_query

T = TypeVar("T")

NATIVE_SCHEMES = ("hdfs", "abfs", "abfss")
RENAMING_SCHEMES = ("hdfs",)
"""Native ones where a file grows under its name, and renaming costs nothing."""
FILE_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
MISTAKES = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError, ImportError)
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EINVAL, errno.ENOTSUP, errno.ENAMETOOLONG)
"""What a repeat does not help."""
MAX_TIMEOUTS_PER_REQUEST = 10
"""A file of unknown size may take so many times Settings.timeout_s."""


class OtherFiles:
    """Implements remote.Backend by pyarrow's filesystems."""

    def read(self, uri: str) -> bytes:
        filesystem, path = _filesystem(uri)

        def read() -> bytes:
            if client := _fsspec(filesystem):  # one call, and no handle that threads might share
                return bytes(client.cat_file(path))
            with filesystem.open_input_file(path) as file:
                return bytes(file.read())

        return _retried(uri, read)

    def open(self, uri: str) -> "pa.NativeFile | RemoteFile":
        filesystem, path = _filesystem(uri)
        client = _fsspec(filesystem)
        if client is None:
            return _retried(uri, lambda: filesystem.open_input_file(path))
        size = int(_retried(uri, lambda: client.size(path)))

        def read_range(start: int, length: int) -> bytes:
            def read() -> bytes:
                return check_length(bytes(client.cat_file(path, start=start, end=start + length)), length)

            return _retried(uri, read, length)

        return RemoteFile(uri, size, read_range)

    def write(self, uri: str, data: "bytes | pa.Buffer") -> None:
        """Where files are seen while they are written, under another name first."""
        filesystem, path = _filesystem(uri)
        buffer = pa.py_buffer(data)  # whatever is wrong with the data shows before the object is touched
        client = _fsspec(filesystem)
        renames = _renames(client) if client else scheme_of(uri) in RENAMING_SCHEMES
        name = f"{path}.{uuid.uuid4().hex}.tmp" if renames else path

        def write() -> None:
            if renames:
                filesystem.create_dir(os.path.dirname(path), recursive=True)
            if client:
                client.pipe_file(name, buffer.to_pybytes())
            else:
                with filesystem.open_output_stream(name) as stream:
                    stream.write(buffer)

        def rename() -> None:
            if filesystem.get_file_info(name).type == fs.FileType.NotFound:
                return  # it was renamed, and only the answer did not come
            if filesystem.get_file_info(path).type == fs.FileType.File:  # few of them replace a file
                filesystem.delete_file(path)
            filesystem.move(name, path)

        _retried(uri, write, len(buffer))
        if renames:
            _retried(uri, rename)

    def list(self, uri: str) -> dict[str, int]:
        filesystem, path = _filesystem(uri)
        infos = _retried(uri, lambda: filesystem.get_file_info(fs.FileSelector(path)))
        return {info.base_name: info.size for info in infos if info.type == fs.FileType.File}

    def exists(self, uri: str) -> bool:
        filesystem, path = _filesystem(uri)
        return bool(_retried(uri, lambda: filesystem.get_file_info(path)).type != fs.FileType.NotFound)

    def remove(self, uris: Sequence[str]) -> None:
        for uri in uris:
            filesystem, path = _filesystem(uri)
            if self.exists(uri):
                _retried(uri, functools.partial(filesystem.delete_file, path))


def _retried(uri: str, call: Callable[[], T], num_bytes: int | None = None) -> T:
    """`call`, repeated where that may help, and each time waited for only so long."""
    timeout_s = settings().timeout_s
    limit_s = MAX_TIMEOUTS_PER_REQUEST * timeout_s
    if num_bytes is not None:
        limit_s = timeout_s + num_bytes / SLOWEST_BYTES_PER_S

    def attempt() -> T:
        try:
            return _within(limit_s, call)
        except (Transient, InputError, *FILE_ERRORS, *MISTAKES):
            raise
        except TimeoutError as error:
            raise Transient(str(error) or f"no answer within {limit_s:g} s (storage.timeout_s)") from error
        except Exception as error:  # the clients' own kinds have nothing in common
            if isinstance(error, OSError) and error.errno in LASTING:
                raise
            told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise Transient(told) from error

    return retried(uri, attempt)


def _within(limit_s: float, call: Callable[[], T]) -> T:
    """What `call` gives, in a thread that is left to itself if it takes longer. Raises TimeoutError."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True, name="storage").start()
    return result.result(limit_s)


@functools.lru_cache(maxsize=64)
def _native(scheme: str, authority: str, query: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = fs.FileSystem.from_uri(f"{scheme}://{authority}{query}")
    return filesystem, path


def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    scheme = scheme_of(uri)
    if scheme in NATIVE_SCHEMES:
        base, query = split_query(uri)
        authority, _, path = base.removeprefix(f"{scheme}://").partition("/")
        filesystem, root = _native(scheme, authority, query)
        return filesystem, f"{root}/{path}" if path else root
    from fsspec.core import url_to_fs  # heavy, and only for rarer schemes

    try:
        other, path = url_to_fs(uri)
    except (ImportError, ValueError, TypeError, OSError) as error:  # not installed, not known, or it needs options
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{shown(uri)}: no access to {scheme}:// addresses ({reason})") from error
    other.invalidate_cache()  # another process may have written since the last listing
    return fs.PyFileSystem(fs.FSSpecHandler(other)), path


def _fsspec(filesystem: fs.FileSystem) -> Any:
    """fsspec's own object, None for pyarrow's."""
    return filesystem.handler.fs if isinstance(filesystem, fs.PyFileSystem) else None


def _renames(client: Any) -> bool:
    """Whether it can rename, as those with folders can; the others would copy, and show an object when it is whole."""
    from fsspec.spec import AbstractFileSystem

    return type(client).mv is not AbstractFileSystem.mv
