"""The folder that long work writes to and goes on in: its files, what a kill left, a full disk. After: ingest, fetch.

`key` is the name of the setting that names the folder, for what the user is told.
"""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hpa_ray.errors import InputError
from hpa_ray.storage import join, list_files, remove


def names_in(key: str, folder: str) -> dict[str, int]:
    """Name -> bytes of its files, nothing if it is not there yet. Raises InputError if it can be no folder."""
    try:
        return list_files(folder)
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        raise InputError(f"{key} = {folder}: is a file - give a folder") from error


def remove_unfinished(key: str, folders: Iterable[str]) -> None:
    """Take away what a killed process was about to write."""
    for folder in dict.fromkeys(folders):
        remove([join(folder, name) for name in names_in(key, folder) if name.endswith(".tmp")])


@contextmanager
def disk_full_told(key: str, folder: str) -> Iterator[None]:
    """Say it plainly when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{key} = {folder}: no space left on the disk - free some and run the same command again, "
            "it goes on where it was"
        ) from error
