"""A shard folder as a source of pixels: memory-mapped when local, ranged reads when remote. After: stream."""

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hpa_ray.errors import InputError
from hpa_ray.schema import MANIFEST_ROW, Images
from hpa_ray.shards.format import MANIFEST_FILE, ShardIndex, check_files, read_index
from hpa_ray.storage import concurrently, is_local, join, open_random_access, read_bytes


@dataclass(frozen=True)
class ShardSource:
    """Pixels of prepared images; row r of the manifest is the r-th image of the shards. Implements schema.Source."""

    folder: str
    index: ShardIndex
    channels: tuple[str, ...]

    @property
    def image_size(self) -> int:
        return self.index.image_size

    def read(self, rows: np.ndarray) -> Images:
        """(B, C, S, S) uint8 pixels of manifest rows. Raises InputError if a shard is missing or has another size."""
        size, stored = self.image_size, len(self.index.channels)
        planes = [self.index.channels.index(stain) for stain in self.channels]
        whole = planes == list(range(stored))
        row_bytes = stored * size * size
        pixels = np.empty((len(rows), len(planes), size, size), np.uint8)
        shards, offsets = self._locate(rows, row_bytes)

        def copy(k: int) -> None:
            entry = self.index.shards[shards[k]]
            data = _open_shard(self.folder, entry.file, entry.bytes, entry.sha256)
            if isinstance(data, np.ndarray):
                image = data[offsets[k] : offsets[k] + row_bytes].reshape(stored, size, size)
            else:
                image = np.frombuffer(data.read_at(row_bytes, int(offsets[k])), np.uint8).reshape(stored, size, size)
            pixels[k] = image if whole else image[planes]

        if is_local(self.folder):
            for k in range(len(rows)):
                copy(k)
        else:
            concurrently(copy, range(len(rows)))
        return Images(np.asarray(rows, np.int64), pixels, [])

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """First row of each shard; of neighbours with the same one, all but the last are empty."""
        rows = np.array([entry.rows for entry in self.index.shards], np.int64)
        return np.asarray(np.cumsum(rows) - rows)

    def _locate(self, rows: np.ndarray, row_bytes: int) -> tuple[np.ndarray, np.ndarray]:
        """Shard number and byte offset of each row."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        within = rows - self._starts[shards]
        batch, place = np.divmod(within, self.index.chunk_rows)
        starts = [self.index.shards[shard].offsets[number] for shard, number in zip(shards, batch, strict=True)]
        return shards, np.asarray(starts, np.int64) + place * row_bytes


def open_shards(folder: str, channels: tuple[str, ...]) -> tuple[ShardSource, pa.Table]:
    """A complete shard folder and its manifest (schema.MANIFEST_ROW). Raises InputError."""
    index = read_index(folder)
    missing = [stain for stain in channels if stain not in index.channels]
    if missing:
        raise InputError(
            f"data.channels asks for {', '.join(missing)}, "
            f"but {folder} holds {', '.join(index.channels)}: prepare again"
        )
    check_files(folder, index)
    try:
        table = pa.ipc.open_file(read_bytes(join(folder, MANIFEST_FILE))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{join(folder, MANIFEST_FILE)}: cannot be read ({error}) - prepare again") from error
    if index.version == 1 and "source" not in table.column_names:  # all its images are of one source
        zeros = pa.array(np.zeros(table.num_rows, np.int8))
        table = table.add_column(MANIFEST_ROW.get_field_index("source"), MANIFEST_ROW.field("source"), zeros)
    if not table.schema.equals(MANIFEST_ROW) or table.num_rows != index.num_images:
        raise InputError(f"{join(folder, MANIFEST_FILE)}: does not fit the index beside it - prepare again")
    return ShardSource(folder, index, channels), table


@functools.lru_cache(maxsize=1024)
def _open_shard(folder: str, file: str, num_bytes: int, sha256: str) -> "np.ndarray | pa.NativeFile":
    """The mapped bytes of a local shard, or an open remote file; once per process.

    sha256 only tells it from an earlier shard of this name: the folder may have been deleted and prepared again.
    """
    uri = join(folder, file)
    try:
        handle = open_random_access(uri)
        size = handle.size()
    except OSError as error:
        raise InputError(f"{uri}: cannot be opened ({error}) - prepare again") from error
    if size != num_bytes:
        raise InputError(f"{uri}: {size:,} bytes, the index says {num_bytes:,} - prepare again")
    return np.frombuffer(handle.read_buffer(), np.uint8) if is_local(folder) else handle
