"""Bytes by URI: each scheme has its backend, and one behaviour is promised for all.

A file is written whole or not at all: a local one under a temporary name that is renamed last, an object by one put.
Requests that fail for a passing reason are repeated (storage/retry), up to Settings.max_attempts times in all.
"""

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hpa_ray.redact import redacted
from hpa_ray.storage.local import LocalFiles
from hpa_ray.storage.remote import Backend, RemoteFile
from hpa_ray.storage.uris import absolute, is_local, scheme_of

LOCAL = LocalFiles()
BUCKET_SCHEMES = ("s3", "gs", "gcs")
WEB_SCHEMES = ("http", "https")


def read_bytes(uri: str) -> bytes:
    """The whole file, by one request. Raises FileNotFoundError or another OSError."""
    return _backend(uri).read(uri)


def open_random_access(uri: str) -> "pa.NativeFile | RemoteFile":
    """A file to read ranges from: memory-mapped when local, otherwise a request per `read_at`."""
    return _backend(uri).open(uri)


def write_bytes(uri: str, data: "bytes | pa.Buffer") -> None:
    """Write the file whole or not at all; folders above it are made."""
    _backend(uri).write(uri, data)


def write_json(uri: str, value: Any) -> None:
    """The file may be read by others than who may read the data: secrets in its texts are left out."""
    write_bytes(uri, (json.dumps(redacted(value), indent=2, allow_nan=False) + "\n").encode())


def write_parquet(uri: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(uri, sink.getvalue())


def write_parquet_of(uri: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """One file of many tables of a schema, of which only one is in memory at a time."""
    with tempfile.TemporaryDirectory(prefix="hpa_ray_") as folder:
        path = os.path.join(folder, "whole.parquet")
        with pq.ParquetWriter(path, schema) as writer:
            for table in tables:
                writer.write_table(table)
        with pa.memory_map(path) as file:
            write_bytes(uri, file.read_buffer())


def list_files(uri: str) -> dict[str, int]:
    """Name -> size in bytes of the files directly in a folder, by one listing; 0 where a web server does not tell.

    Raises FileNotFoundError if there is no such folder, NotADirectoryError if it is a file.
    """
    return _backend(uri).list(uri)


def exists(uri: str) -> bool:
    """Whether there is such a file or folder."""
    return _backend(uri).exists(uri)


def remove(uris: Iterable[str]) -> None:
    """Delete files; one that is gone already is no error."""
    by_backend: dict[Backend, list[str]] = {}
    for uri in uris:
        by_backend.setdefault(_backend(uri), []).append(uri)
    for backend, some in by_backend.items():
        backend.remove(some)


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


def _backend(uri: str) -> Backend:
    return LOCAL if is_local(uri) else _remote(scheme_of(uri))


@functools.cache
def _remote(scheme: str) -> Backend:
    """One for all addresses of a scheme; its client is imported when the first is used."""
    if scheme in BUCKET_SCHEMES:
        from hpa_ray.storage.objects import ObjectFiles

        return ObjectFiles()
    if scheme in WEB_SCHEMES:
        from hpa_ray.storage.web import WebFiles

        return WebFiles()
    from hpa_ray.storage.others import OtherFiles

    return OtherFiles()
