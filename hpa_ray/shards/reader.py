"""A shard folder as a source of pixels: memory-mapped when local, ranged reads when remote. After: stream."""

import functools
import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.progress import one_line
from hpa_ray.schema import MANIFEST_ROW, Images, are_ids
from hpa_ray.shards.format import CHECKSUMS_FILE, MANIFEST_FILE, ShardIndex, check_files, read_index
from hpa_ray.storage import (
    RemoteFile,
    Unreachable,
    concurrently,
    is_local,
    join,
    open_random_access,
    read_arrow,
    read_bytes,
)

ANEW = "delete the folder and prepare again"
NO_FIT = f"does not fit the index beside it - {ANEW}"


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
        """(B, C, S, S) uint8 pixels of manifest rows. Raises InputError if a shard is missing or damaged.

        An image is held against its checksum when a process first reads it from a disk: that takes as long as copying
        it. From elsewhere it comes anew each time, and is.
        """
        size, stored = self.image_size, len(self.index.channels)
        planes = [self.index.channels.index(stain) for stain in self.channels]
        whole = planes == list(range(stored))
        row_bytes = stored * size * size
        pixels = np.empty((len(rows), len(planes), size, size), np.uint8)
        local = is_local(self.folder)
        shards, offsets = self._locate(rows, row_bytes)
        crc_N, intact_N = _checksums(self.folder, self.index.checksums_sha256, self.index.num_images)

        def copy(k: int) -> None:
            entry = self.index.shards[shards[k]]
            data = _open_shard(self.folder, entry.file, entry.bytes, entry.sha256)
            row = rows[k]

            def is_right(content: Any) -> bool:
                return bool(intact_N[row] or zlib.crc32(content) == crc_N[row])

            if isinstance(data, np.ndarray):
                flat = data[offsets[k] : offsets[k] + row_bytes]
            elif isinstance(data, RemoteFile):
                flat = np.frombuffer(data.read_at(row_bytes, int(offsets[k]), is_right), np.uint8)
            else:
                flat = np.frombuffer(data.read_at(row_bytes, int(offsets[k])), np.uint8)
            if not is_right(flat):
                raise InputError(f"{join(self.folder, entry.file)}: damaged (checksum of an image) - {ANEW}")
            intact_N[row] |= local
            image = flat.reshape(stored, size, size)
            pixels[k] = image if whole else image[planes]

        if local:
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
    table = _read_table(join(folder, MANIFEST_FILE), index.manifest_sha256)
    num_sources = len(index.sources) or 1
    if index.version == 1 and "source" not in table.column_names:  # all its images are of one source
        zeros = pa.array(np.zeros(table.num_rows, np.int8))
        table = table.add_column(MANIFEST_ROW.get_field_index("source"), MANIFEST_ROW.field("source"), zeros)
    if not table.schema.equals(MANIFEST_ROW) or table.num_rows != index.num_images:
        raise InputError(f"{join(folder, MANIFEST_FILE)}: {NO_FIT}")
    if not are_ids(table["image_id"]).all():  # they go into csv files and figures
        raise InputError(f"{join(folder, MANIFEST_FILE)}: holds Ids that are none - {ANEW}")
    if not (_within(table["labels"].combine_chunks().flatten(), NUM_CLASSES) and _within(table["source"], num_sources)):
        raise InputError(f"{join(folder, MANIFEST_FILE)}: holds labels or sources that are none - {ANEW}")
    _checksums(folder, index.checksums_sha256, index.num_images)
    return ShardSource(folder, index, channels), table


def _within(numbers: "pa.Array | pa.ChunkedArray", count: int) -> bool:
    """Whether all are from 0 to count - 1."""
    ends = pc.min_max(numbers)
    return numbers.null_count == 0 and (not len(numbers) or 0 <= ends["min"].as_py() <= ends["max"].as_py() < count)


def _read_table(uri: str, sha256: str) -> pa.Table:
    """An Arrow file whose checksum is in the index, or empty there if it has none. Raises InputError."""
    try:
        content = read_bytes(uri)
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            raise InputError(f"{uri}: {NO_FIT}")
        table = read_arrow(content)
        table.validate(full=True)
    except Unreachable:
        raise
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri}: cannot be read ({one_line(' '.join(str(error).split())[:200])}) - {ANEW}") from error
    return table


@functools.lru_cache(maxsize=64)
def _checksums(folder: str, sha256: str, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """The CRC-32 of every image, and which of them this process has found to be right: all where they have none."""
    if not sha256:
        return np.empty(0, np.uint32), np.ones(num_images, bool)
    uri = join(folder, CHECKSUMS_FILE)
    table = _read_table(uri, sha256)
    if table.column_names != ["crc32"] or table.num_rows != num_images:
        raise InputError(f"{uri}: {NO_FIT}")
    return table["crc32"].to_numpy(), np.zeros(num_images, bool)


@functools.lru_cache(maxsize=1024)
def _open_shard(folder: str, file: str, num_bytes: int, sha256: str) -> "np.ndarray | pa.NativeFile":
    """The mapped bytes of a local shard, or an open remote file; once per process.

    sha256 only tells it from an earlier shard of this name: the folder may have been deleted and prepared again.
    """
    uri = join(folder, file)
    try:
        handle = open_random_access(uri)
        size = handle.size()
    except Unreachable:
        raise
    except OSError as error:
        raise InputError(f"{uri}: cannot be opened ({error}) - prepare again") from error
    if size != num_bytes:
        raise InputError(f"{uri}: {size:,} bytes, the index says {num_bytes:,} - prepare again")
    return np.frombuffer(handle.read_buffer(), np.uint8) if is_local(folder) else handle
