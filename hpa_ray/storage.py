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

NATIVE_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss")


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """A local path made absolute (`~` expanded, file:// removed); any other URI without its trailing slash."""
    if not is_local(uri):
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *parts])


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
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)
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
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
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
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@functools.lru_cache(maxsize=64)
def _root(scheme: str, authority: str, query: str) -> tuple[fs.FileSystem, str]:
    if scheme in NATIVE_SCHEMES:
        filesystem, path = fs.FileSystem.from_uri(f"{scheme}://{authority}{query}")
        return filesystem, path
    import fsspec  # heavy, and only for rarer schemes

    handler = fs.FSSpecHandler(fsspec.filesystem(scheme))
    return fs.PyFileSystem(handler), f"{scheme}://{authority}" if scheme in ("http", "https") else authority


def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    scheme, rest = uri.split("://", 1)
    rest, question, query = rest.partition("?") if scheme in NATIVE_SCHEMES else (rest, "", "")
    authority, _, path = rest.partition("/")
    filesystem, root = _root(scheme, authority, question + query)
    return filesystem, f"{root}/{path}" if path else root
