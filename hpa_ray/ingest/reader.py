"""Image files as a source of pixels: fetch, decode, stack. Before: manifest. After: ingest/prepare, stream."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hpa_ray.ingest.decode import DecodeError, decode_plane
from hpa_ray.ingest.stack import stack_planes
from hpa_ray.schema import Images, Reject
from hpa_ray.storage import is_local, join, read_bytes

REMOTE_REQUESTS = 16
"""Requests in flight per task on an object store: one costs tens of ms there, and decoding has to wait for it."""


@dataclass(frozen=True)
class ImageSource:
    """Pixels of the images of a manifest, straight from their files. Implements schema.Source."""

    folder: str
    table: pa.Table  # schema.MANIFEST_ROW
    channels: tuple[str, ...]
    image_size: int

    def read(self, rows: np.ndarray) -> Images:
        """(B, C, S, S) uint8 pixels of manifest rows; images that can not be used come back as rejects.

        Whether that ends the work is for the caller to say: this runs in Ray tasks, where errors lose their type.
        """
        picked = self.table.take(pa.array(rows))
        ids, extensions = picked["image_id"].to_pylist(), picked["extension"].to_pylist()
        files = [
            [f"{image_id}_{stain}.{extension}" for stain in self.channels]
            for image_id, extension in zip(ids, extensions, strict=True)
        ]
        pixels = np.empty((len(rows), len(self.channels), self.image_size, self.image_size), np.uint8)
        rejects: list[Reject] = []
        kept: list[int] = []
        for row, image_id, names, planes in zip(rows, ids, files, self._fetch(files), strict=True):
            try:
                pixels[len(kept)] = self._decode(names, planes)
                kept.append(int(row))
            except BadFile as error:
                rejects.append(Reject(int(row), image_id, error.file, error.reason))
        return Images(np.asarray(kept, np.int64), pixels[: len(kept)], rejects)

    def _fetch(self, files: list[list[str]]) -> Iterator[list[bytes | OSError]]:
        if is_local(self.folder):
            yield from ([_read(join(self.folder, name)) for name in names] for names in files)
            return
        with ThreadPoolExecutor(REMOTE_REQUESTS) as pool:
            flat = pool.map(_read, [join(self.folder, name) for names in files for name in names])
            for names in files:
                yield [next(flat) for _ in names]

    def _decode(self, names: list[str], contents: list[bytes | OSError]) -> np.ndarray:
        planes = []
        for name, content in zip(names, contents, strict=True):
            if isinstance(content, OSError):
                raise BadFile(name, f"cannot be read ({content.strerror or content})")
            try:
                planes.append(decode_plane(content))
            except DecodeError as error:
                raise BadFile(name, str(error)) from error
        try:
            return stack_planes(planes, self.image_size)
        except DecodeError as error:
            raise BadFile(names[0], str(error)) from error


class BadFile(ValueError):
    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason


def _read(uri: str) -> bytes | OSError:
    try:
        return read_bytes(uri)
    except OSError as error:
        return error
