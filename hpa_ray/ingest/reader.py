"""Image files as a source of pixels: fetch, decode, stack. Before: manifest. After: ingest/prepare, stream."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hpa_ray.ingest.decode import DecodeError, decode_plane
from hpa_ray.ingest.stack import check_shapes, resize_plane
from hpa_ray.redact import redact
from hpa_ray.schema import Images, Reject
from hpa_ray.storage import join, read_many


@dataclass(frozen=True)
class ImageSource:
    """Pixels of the images of a manifest, straight from their files. Implements schema.Source."""

    folders: tuple[str, ...]  # by number of the source
    table: pa.Table  # schema.MANIFEST_ROW
    channels: tuple[str, ...]
    image_size: int
    white_level: int = 65535

    def read(self, rows: np.ndarray) -> Images:
        """(B, C, S, S) uint8 pixels of manifest rows; images that can not be used come back as rejects.

        Whether that ends the work is for the caller to say: this runs in Ray tasks, where errors lose their type.
        """
        rows_B, (pixels,), rejects = self.read_sizes(rows, [self.image_size])
        return Images(rows_B, pixels, rejects)

    def read_sizes(self, rows: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray], list[Reject]]:
        """As `read`, at several sizes from one decoding."""
        ids, files = self.files(rows)
        pixels = [np.empty((len(rows), len(self.channels), size, size), np.uint8) for size in sizes]
        contents = read_many([uri for uris in files for uri in uris])
        rejects: list[Reject] = []
        kept: list[int] = []
        for row, image_id, uris in zip(rows, ids, files, strict=True):
            try:
                planes = self._decode(uris, [next(contents) for _ in uris])
            except BadFile as error:
                rejects.append(Reject(int(row), image_id, self.told(int(row), error.file), error.reason))
                continue
            for size, images in zip(sizes, pixels, strict=True):
                for channel, plane in enumerate(planes):
                    images[len(kept), channel] = resize_plane(plane, size)
            kept.append(int(row))
        return np.asarray(kept, np.int64), [images[: len(kept)] for images in pixels], rejects

    def files(self, rows: np.ndarray) -> tuple[list[str], list[list[str]]]:
        """Ids of manifest rows and, for each, the URIs of its planes in the order of the channels."""
        picked = self.table.take(pa.array(rows))
        ids, extensions = picked["image_id"].to_pylist(), picked["extension"].to_pylist()
        folders = [self.folders[number] for number in picked["source"].to_pylist()]
        uris = [
            [join(folder, f"{image_id}_{stain}.{extension}") for stain in self.channels]
            for folder, image_id, extension in zip(folders, ids, extensions, strict=True)
        ]
        return ids, uris

    def _decode(self, uris: list[str], contents: list[bytes | OSError]) -> list[np.ndarray]:
        planes = []
        for uri, stain, content in zip(uris, self.channels, contents, strict=True):
            if isinstance(content, OSError):
                raise BadFile(uri, f"cannot be read ({content.strerror or content})")
            try:
                planes.append(decode_plane(content, stain, white_level=self.white_level).pixels)
            except DecodeError as error:
                raise BadFile(uri, str(error)) from error
        try:
            check_shapes([plane.shape for plane in planes])
        except DecodeError as error:
            raise BadFile(uris[0], str(error)) from error
        return planes

    def told(self, row: int, uri: str) -> str:
        """How a file is named to the user: of the first source by its name in the folder, of others by all of it."""
        return uri.partition("?")[0].rpartition("/")[2] if self.table["source"][row].as_py() == 0 else redact(uri)


class BadFile(ValueError):
    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason
