"""Files of this machine. A file is written under a temporary name that is renamed last."""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from hpa_ray.storage.uris import absolute


class LocalFiles:
    """Implements remote.Backend for paths and file:// URIs."""

    def read(self, uri: str) -> bytes:
        return Path(absolute(uri)).read_bytes()

    def open(self, uri: str) -> pa.NativeFile:
        return pa.memory_map(absolute(uri))

    def write(self, uri: str, data: "bytes | pa.Buffer") -> None:
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

    def list(self, uri: str) -> dict[str, int]:
        with os.scandir(absolute(uri)) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}

    def exists(self, uri: str) -> bool:
        return os.path.exists(absolute(uri))

    def remove(self, uris: Sequence[str]) -> None:
        for uri in uris:
            Path(absolute(uri)).unlink(missing_ok=True)
