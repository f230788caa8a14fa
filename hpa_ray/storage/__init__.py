"""Bytes by URI, wherever they are: a disk, an object store, a web server."""

from hpa_ray.storage.files import (
    absolute,
    exists,
    free_bytes,
    is_local,
    join,
    list_files,
    open_random_access,
    read_bytes,
    remove,
    remove_empty_folder,
    write_bytes,
    write_json,
    write_parquet,
)
from hpa_ray.storage.settings import Settings, add_retries, configure, settings, take_retries

__all__ = [
    "Settings",
    "absolute",
    "add_retries",
    "configure",
    "exists",
    "free_bytes",
    "is_local",
    "join",
    "list_files",
    "open_random_access",
    "read_bytes",
    "remove",
    "remove_empty_folder",
    "settings",
    "take_retries",
    "write_bytes",
    "write_json",
    "write_parquet",
]
