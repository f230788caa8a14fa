"""Files of this machine. A file is written under a temporary name that is renamed last.

The file is on the disk before it is renamed, and the new name before the call returns: what is there after a power
failure is the old file or the new one, whole, and never a result that points to a file that was lost.
"""

import contextlib
import errno
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from hpa_ray.storage.uris import absolute

NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF)
"""Of folders that can not be opened or synced, as on some network disks; their files are renamed all the same."""


class LocalFiles:
    """Implements remote.Backend for paths and file:// URIs."""

    def read(self, uri: str) -> bytes:
        return Path(absolute(uri)).read_bytes()

    def open(self, uri: str) -> pa.NativeFile:
        return pa.memory_map(absolute(uri))

    def write(self, uri: str, data: "bytes | pa.Buffer") -> None:
        path = absolute(uri)
        folder = there = os.path.dirname(path)
        while not os.path.isdir(there):
            there = os.path.dirname(there)
        os.makedirs(folder, exist_ok=True)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync(folder)
            while folder != there:  # the names of new folders
                folder = os.path.dirname(folder)
                _sync(folder)
        except BaseException as error:
            with contextlib.suppress(OSError):  # where nothing can be written any more, this can not either
                os.unlink(temporary)
            if isinstance(error, OSError):  # "no space left" comes without a name
                raise OSError(error.errno, error.strerror, path) from error
            raise

    def list(self, uri: str) -> dict[str, int]:
        sizes = {}
        with os.scandir(absolute(uri)) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # a file that another process has just renamed or deleted
                    if entry.is_file():
                        sizes[entry.name] = entry.stat().st_size
        return sizes

    def exists(self, uri: str) -> bool:
        return os.path.exists(absolute(uri))

    def remove(self, uris: Sequence[str]) -> None:
        for uri in uris:
            Path(absolute(uri)).unlink(missing_ok=True)


def _sync(path: str) -> None:
    """Put the names in a folder on the disk."""
    try:
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno not in NOT_SYNCED:
            raise
