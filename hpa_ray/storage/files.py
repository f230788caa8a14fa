"""Bytes by URI: local paths, s3:// and gs:// through pyarrow, every other scheme through fsspec.

A file is written whole or not at all: a local one under a temporary name that is renamed last, an object by one put.
"""

import functools
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from hpa_ray.errors import InputError

NATIVE_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss")
QUERY_SCHEMES = (*NATIVE_SCHEMES, "http", "https")
"""Where `?` begins options or a signature (s3://bucket/folder?region=eu-north-1); elsewhere it is part of a name."""


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """A local path made absolute (`~` expanded, file:// removed); any other URI without its trailing slash."""
    if not is_local(uri):
        base, query = _split_query(uri)
        return _without_slash(base) + query
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def join(base: str, *parts: str) -> str:
    """A file in a folder; the query of the folder's URI goes with it."""
    base, query = _split_query(base)
    return "/".join([_without_slash(base), *parts]) + query


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises FileNotFoundError or another OSError."""
    if is_local(uri):
        return Path(absolute(uri)).read_bytes()
    filesystem, path = _filesystem(uri)
    with filesystem.open_input_file(path) as file:
        return bytes(file.read())


def open_random_access(uri: str) -> pa.NativeFile:
    """A file to read ranges from: memory-mapped when local."""
    if is_local(uri):
        return pa.memory_map(absolute(uri))
    filesystem, path = _filesystem(uri)
    return filesystem.open_input_file(path)


def write_bytes(uri: str, data: "bytes | pa.Buffer") -> None:
    """Write the file whole or not at all; folders above it are made."""
    if not is_local(uri):
        filesystem, path = _filesystem(uri)
        buffer = pa.py_buffer(data)  # whatever is wrong with the data shows before the object is touched
        if isinstance(filesystem, fs.PyFileSystem):  # an fsspec stream would show a cut file while it is written
            filesystem.handler.fs.pipe_file(path, buffer.to_pybytes())
            return
        with filesystem.open_output_stream(path) as stream:
            stream.write(buffer)
        return
    path = absolute(uri)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):  # "no space left" comes without a name
            raise OSError(error.errno, error.strerror, path) from error
        raise


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_parquet(uri: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(uri, sink.getvalue())


def list_files(uri: str) -> dict[str, int]:
    """Name -> size in bytes of the files directly in a folder, by one listing.

    Raises FileNotFoundError if there is no such folder, NotADirectoryError if it is a file.
    """
    if is_local(uri):
        with os.scandir(absolute(uri)) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    filesystem, path = _filesystem(uri)
    infos = filesystem.get_file_info(fs.FileSelector(path))
    return {info.base_name: info.size for info in infos if info.type == fs.FileType.File}


def exists(uri: str) -> bool:
    if is_local(uri):
        return os.path.exists(absolute(uri))
    filesystem, path = _filesystem(uri)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def remove(uris: Iterable[str]) -> None:
    """Delete files; one that is gone already is no error."""
    for uri in uris:
        if is_local(uri):
            Path(absolute(uri)).unlink(missing_ok=True)
        elif exists(uri):
            filesystem, path = _filesystem(uri)
            filesystem.delete_file(path)


def remove_empty_folder(uri: str) -> None:
    """Delete a local folder that holds nothing; object stores have no folders."""
    if is_local(uri) and os.path.isdir(absolute(uri)):
        os.rmdir(absolute(uri))


def free_bytes(uri: str) -> int | None:
    """Free space at a local path that need not exist yet; None where it is not known."""
    if not is_local(uri):
        return None
    path = Path(absolute(uri))
    while not os.path.exists(path):  # Path.exists raises where a folder may not be looked into
        path = path.parent
    return shutil.disk_usage(path).free


def _split_query(uri: str) -> tuple[str, str]:
    """URI -> URI without its query, and the query with its `?`."""
    if uri.partition("://")[0] not in QUERY_SCHEMES:
        return uri, ""
    base, question, query = uri.partition("?")
    return base, question + query


def _without_slash(uri: str) -> str:
    scheme, colon, rest = uri.rpartition("://")
    return scheme + colon + rest.rstrip("/")


@functools.lru_cache(maxsize=64)
def _native(scheme: str, authority: str, query: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = fs.FileSystem.from_uri(f"{scheme}://{authority}{query}")
    return filesystem, path


def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    scheme = uri.partition("://")[0]
    if scheme in NATIVE_SCHEMES:
        base, query = _split_query(uri)
        authority, _, path = base.removeprefix(f"{scheme}://").partition("/")
        filesystem, root = _native(scheme, authority, query)
        return filesystem, f"{root}/{path}" if path else root
    from fsspec.core import url_to_fs  # heavy, and only for rarer schemes

    try:
        other, path = url_to_fs(uri)
    except (ImportError, ValueError, TypeError) as error:  # not installed, not known, or it needs options
        raise InputError(f"{uri}: no access to {scheme}:// addresses ({error})") from error
    other.invalidate_cache()  # another process may have written since the last listing
    return fs.PyFileSystem(fs.FSSpecHandler(other)), path
