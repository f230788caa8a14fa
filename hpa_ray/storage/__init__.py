"""Bytes by URI, wherever they are: a disk, an object store, a web server."""

from hpa_ray.storage.files import (
    exists,
    free_bytes,
    list_files,
    open_random_access,
    read_bytes,
    remove,
    remove_empty_folder,
    write_bytes,
    write_json,
    write_parquet,
    write_parquet_of,
)
from hpa_ray.storage.many import read_many
from hpa_ray.storage.plain_tables import read_arrow, read_parquet
from hpa_ray.storage.remote import RemoteFile
from hpa_ray.storage.retry import Unreachable
from hpa_ray.storage.settings import Settings, abandon, add_retries, configure, settings, take_retries
from hpa_ray.storage.threads import concurrently
from hpa_ray.storage.uris import absolute, is_local, join, shown

__all__ = [
    "RemoteFile",
    "Settings",
    "Unreachable",
    "abandon",
    "absolute",
    "add_retries",
    "concurrently",
    "configure",
    "exists",
    "free_bytes",
    "is_local",
    "join",
    "list_files",
    "open_random_access",
    "read_arrow",
    "read_bytes",
    "read_many",
    "read_parquet",
    "remove",
    "remove_empty_folder",
    "settings",
    "shown",
    "take_retries",
    "write_bytes",
    "write_json",
    "write_parquet",
    "write_parquet_of",
]
