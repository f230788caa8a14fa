"""What storage asks of a place where files are, and a file that is read in ranges by requests."""

import errno
import io
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pyarrow as pa

from hpa_ray.storage.retry import Transient, retried
from hpa_ray.storage.uris import shown


class Backend(Protocol):
    """Every method repeats its own requests (storage/retry); they may be called from several threads."""

    def read(self, uri: str) -> bytes: ...

    def open(self, uri: str) -> "pa.NativeFile | RemoteFile": ...

    def write(self, uri: str, data: "bytes | pa.Buffer") -> None: ...

    def list(self, uri: str) -> dict[str, int]: ...

    def exists(self, uri: str) -> bool: ...

    def remove(self, uris: Sequence[str]) -> None: ...


class RemoteFile(io.RawIOBase):
    """A file of known size whose ranges are requests of their own; read_at may be called from several threads.

    Has those methods of pyarrow.NativeFile that are used here, and those of a Python file for readers of Parquet. Not
    wrapped into a pyarrow.PythonFile: that seeks and reads under a lock, one request at a time.
    """

    def __init__(self, uri: str, num_bytes: int, read_range: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._uri, self._num_bytes, self._read_range = uri, num_bytes, read_range
        self._position = 0

    def size(self) -> int:
        return self._num_bytes

    def read_at(self, nbytes: int, offset: int, is_right: Callable[[bytes], bool] | None = None) -> bytes:
        """`nbytes` from `offset`, fewer at the end of the file.

        What is not right may have changed on its way and is read again; where the same comes twice, it is stored so.
        """
        if nbytes < 0 or offset < 0:
            raise ValueError(f"{nbytes=} {offset=}: a range begins inside the file")
        nbytes = min(nbytes, self._num_bytes - offset)
        if nbytes <= 0:
            return b""
        if is_right is None:
            return self._read_range(offset, nbytes)
        doubt = Doubt()
        return retried(self._uri, lambda: doubt.settle(data := self._read_range(offset, nbytes), is_right(data)))

    def read_buffer(self, nbytes: int | None = None) -> pa.Buffer:
        return pa.py_buffer(self.read(-1 if nbytes is None else nbytes))

    def read(self, size: int | None = -1, /) -> bytes:
        rest = max(0, self._num_bytes - self._position)
        data = self.read_at(rest if size is None or size < 0 else min(size, rest), self._position)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "a position before the first byte", shown(self._uri))
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class Doubt:
    """Tells bytes that have changed on their way from those that are stored so: only these come twice."""

    def __init__(self) -> None:
        self._before: bytes | None = None

    def settle(self, data: bytes, is_right: bool) -> bytes:
        """The data. Raises Transient for what is not right and has not come before."""
        if not is_right and data != self._before:
            self._before = data
            raise Transient("the bytes do not fit their checksum")
        return data


def check_length(data: bytes, expected: int) -> bytes:
    """The data. Raises Transient if it is not as long as was announced or asked for."""
    if len(data) != expected:
        raise Transient(f"answer of {len(data):,} bytes instead of {expected:,}")
    return data
