"""Rarer places: hdfs:// and abfs:// through pyarrow, every other scheme through fsspec. Needs what those need."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from hpa_ray.errors import InputError
from hpa_ray.storage.retry import Transient, retried
from hpa_ray.storage.uris import scheme_of, shown, split_query

T = TypeVar("T")

NATIVE_SCHEMES = ("hdfs", "abfs", "abfss")


class OtherFiles:
    """Implements remote.Backend by pyarrow's filesystems."""

    def read(self, uri: str) -> bytes:
        filesystem, path = _filesystem(uri)

        def read() -> bytes:
            if isinstance(filesystem, fs.PyFileSystem):  # one call, and no handle that threads might share
                return bytes(filesystem.handler.fs.cat_file(path))
            with filesystem.open_input_file(path) as file:
                return bytes(file.read())

        return _retried(uri, read)

    def open(self, uri: str) -> pa.NativeFile:
        filesystem, path = _filesystem(uri)
        return _retried(uri, lambda: filesystem.open_input_file(path))

    def write(self, uri: str, data: "bytes | pa.Buffer") -> None:
        filesystem, path = _filesystem(uri)
        buffer = pa.py_buffer(data)  # whatever is wrong with the data shows before the object is touched

        def write() -> None:
            if isinstance(filesystem, fs.PyFileSystem):  # an fsspec stream would show a cut file while it is written
                filesystem.handler.fs.pipe_file(path, buffer.to_pybytes())
                return
            with filesystem.open_output_stream(path) as stream:
                stream.write(buffer)

        _retried(uri, write)

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


def _retried(uri: str, call: Callable[[], T]) -> T:
    def attempt() -> T:
        try:
            return call()
        except (ConnectionError, TimeoutError) as error:  # what all clients have in common
            raise Transient(str(error) or type(error).__name__) from error

    return retried(uri, attempt)


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
    except (ImportError, ValueError, TypeError) as error:  # not installed, not known, or it needs options
        raise InputError(f"{shown(uri)}: no access to {scheme}:// addresses ({error})") from error
    other.invalidate_cache()  # another process may have written since the last listing
    return fs.PyFileSystem(fs.FSSpecHandler(other)), path
