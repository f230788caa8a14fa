"""The form of a shard file and of the index. Before: ingest/prepare. After: shards/reader.

Uncompressed Arrow IPC: one core reads 12,800 images/s of 4 x 256 x 256 from it, 5,000 from Parquet, 180 from PNG bytes.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hpa_ray.channels import STAIN_ORDER, STAINS
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES, VOCABULARY
from hpa_ray.progress import one_line
from hpa_ray.schema import shard_row
from hpa_ray.shards.seal import SEAL, is_intact, sealed
from hpa_ray.storage import join, list_files, read_bytes, shown, write_json

FORMAT = "hpa-ray-shards"
FORMAT_VERSION = 3
"""3: checksums of the images, the manifest and the index; 2: several sources, 16-bit files; 1 and 2 are read."""
READABLE_VERSIONS = (1, 2, 3)
INDEX_FILE = "index.json"
MANIFEST_FILE = "manifest.arrow"
CHECKSUMS_FILE = "checksums.arrow"
"""The CRC-32 of the pixels of every image, in the order of the manifest: what is read of a shard is a few images."""
CHUNK_ROWS = 64
"""Images per record batch, and per chunk of the order in which a training run reads them."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardEntry(_Stored):
    file: str = Field(pattern=r"^shard-\d{5,}\.arrow$")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    offsets: tuple[int, ...]
    """Byte at which the pixels of each record batch begin."""


class SourceEntry(_Stored):
    """One of the sources that the images came from, by its number in the manifest."""

    name: str
    num_images: int = Field(ge=0)
    mean: tuple[float, ...]
    """Of each stain over the pixels of this source, on the 0 to 1 scale; zeros without images."""
    std: tuple[float, ...]

    @classmethod
    def of(cls, uri: str, num_images: int, mean: tuple[float, ...], std: tuple[float, ...]) -> "SourceEntry":
        """Named by the last two words of its folder: where a user keeps files is nobody else's business."""
        name = "/".join(shown(uri).rstrip("/").split("/")[-2:])
        return cls(name=name, num_images=num_images, mean=mean, std=std)


class ShardIndex(_Stored):
    format: str
    version: int
    vocabulary: str
    stain_order: str
    channels: tuple[str, ...]
    image_size: int = Field(ge=1)
    resize_rule: str
    white_level: int = Field(ge=255, le=65535)
    """Value of 16-bit files that became 255."""
    fingerprint: str
    """Of everything that decided the content: images, labels, size, seed, rules."""
    num_images: int = Field(ge=0)
    num_rejected: int = Field(ge=0)
    mean: tuple[float, ...]
    """Of each stain over all pixels, on the 0 to 1 scale."""
    std: tuple[float, ...]
    sources: tuple[SourceEntry, ...]
    class_counts: tuple[int, ...]
    chunk_rows: int = Field(ge=1, le=2**31 - 1)
    shards: tuple[ShardEntry, ...]
    manifest_sha256: str
    """Of the file MANIFEST_FILE; empty before version 3, as the two below."""
    checksums_sha256: str
    """Of the file CHECKSUMS_FILE."""
    checksum: str = ""
    """Of this index, as `seal` makes it when it is written."""

    @model_validator(mode="before")
    @classmethod
    def _from_earlier_version(cls, value: Any) -> Any:
        """Version 1 had 8-bit files of one source, version 2 no checksums but those of whole shards."""
        if isinstance(value, dict) and value.get("version") in (1, 2):
            value = {"manifest_sha256": "", "checksums_sha256": ""} | value
            if value["version"] == 1:
                value = {"white_level": 65535, "sources": ()} | value
        return value


def write_index(folder: str, index: ShardIndex) -> ShardIndex:
    """Write the index with its checksum, the last file of a folder; returns it as it is read back."""
    content = sealed(index.model_dump(mode="json", exclude={SEAL}))
    write_json(join(folder, INDEX_FILE), content)
    return ShardIndex.model_validate(content)


def encode_shard(image_ids: Sequence[str], pixels_BCSS: np.ndarray) -> tuple[pa.Buffer, tuple[int, ...]]:
    """Images -> the bytes of an Arrow IPC file, and the offset in it of the pixels of each record batch."""
    num_channels, image_size = pixels_BCSS.shape[1:3]
    schema = shard_row(num_channels, image_size)

    def write(sink: pa.NativeFile) -> None:
        with pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, len(image_ids), CHUNK_ROWS):
                chunk = pixels_BCSS[start : start + CHUNK_ROWS]
                images = pa.Array.from_buffers(schema.field("image").type, len(chunk), [None, pa.py_buffer(chunk)])
                ids = pa.array(image_ids[start : start + CHUNK_ROWS], pa.string())
                writer.write_batch(pa.record_batch([ids, images], schema=schema))

    size = pa.MockOutputStream()  # a buffer that grows as it is written would take up to twice the room
    write(size)
    buffer = pa.allocate_buffer(size.size())
    write(pa.FixedSizeBufferWriter(buffer))
    with pa.ipc.open_file(pa.BufferReader(buffer)) as reader:
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    return buffer, tuple(batch.column("image").buffers()[1].address - buffer.address for batch in batches)


def read_index(folder: str) -> ShardIndex:
    """The index of a complete shard folder. Raises InputError for anything this version can not read."""
    uri = join(folder, INDEX_FILE)
    try:
        data = read_bytes(uri)
    except FileNotFoundError as error:
        raise InputError(
            f"data.shards = {folder}: no {INDEX_FILE} - not a shard folder, or `hpa-ray prepare` did not finish; "
            "run it again with the same settings to complete it (of several sizes, name the folder of one, such as "
            f"{join(folder, '256px')})"
        ) from error
    except OSError as error:
        raise InputError(f"{uri}: cannot be read ({error})") from error
    content = _parsed(data)
    version = content.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:  # it may have fields that this program knows nothing of
        known = ", ".join(map(str, READABLE_VERSIONS[:-1]))
        advice = "update the program"
        raise InputError(f"{uri}: version is {version}, this program reads {known} and {FORMAT_VERSION} - {advice}")
    try:
        index = ShardIndex.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = one_line(f"{where}: {first['msg']}"[:200])
        raise InputError(f"{uri}: not an index of this version ({reason}) - prepare again") from error
    for name, found, expected in (
        ("format", index.format, FORMAT),
        ("version", index.version, index.version if index.version in READABLE_VERSIONS else FORMAT_VERSION),
        ("vocabulary", index.vocabulary, VOCABULARY),
        ("stain_order", index.stain_order, STAIN_ORDER),
    ):
        if found != expected:
            raise InputError(f"{uri}: {name} is {found!r:.100}, this program reads {expected!r} - prepare again")
    if not _adds_up(index):
        raise InputError(f"{uri}: its numbers contradict each other - delete the folder and prepare again")
    if (index.version >= 3 or index.checksum) and not is_intact(content):
        raise InputError(f"{uri}: damaged (its checksum does not fit) - delete the folder and prepare again")
    return index


def _parsed(data: bytes) -> dict[str, Any]:
    """The object of a JSON file, an empty one if it holds none; what is wrong with it is told by the model."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def check_files(folder: str, index: ShardIndex) -> None:
    """Raises InputError if a shard is missing or has another size than the index says; by one listing."""
    if folder.startswith(("http://", "https://")):  # where a listing is a page of links, if there is one
        return
    sizes = list_files(folder)
    wrong = [entry for entry in index.shards if sizes.get(entry.file) != entry.bytes]
    if wrong:
        size = sizes.get(wrong[0].file)
        found = "it is missing" if size is None else f"{size:,} bytes"
        raise InputError(
            f"{join(folder, wrong[0].file)}: {found}, the index says {wrong[0].bytes:,} bytes ({len(wrong)} of "
            f"{len(index.shards)} shards are damaged) - delete the folder and prepare again"
        )


def _adds_up(index: ShardIndex) -> bool:
    row_bytes = len(index.channels) * index.image_size**2
    fit = [
        0 < len(index.channels) == len(set(index.channels)),
        set(index.channels) <= set(STAINS),
        len(index.mean) == len(index.std) == len(index.channels),
        len(index.class_counts) == NUM_CLASSES,
        all(len(source.mean) == len(source.std) == len(index.channels) for source in index.sources),
        sum(source.num_images for source in index.sources) == (index.num_images if index.sources else 0),
        sum(entry.rows for entry in index.shards) == index.num_images,
    ]
    return all(fit) and all(_offsets_fit(entry, index.chunk_rows, row_bytes) for entry in index.shards)


def _offsets_fit(entry: ShardEntry, chunk_rows: int, row_bytes: int) -> bool:
    """Whether there is one for each batch, with room for its pixels."""
    if len(entry.offsets) != -(-entry.rows // chunk_rows):  # first: a damaged number of rows may be any
        return False
    batches = [min(chunk_rows, entry.rows - start) for start in range(0, entry.rows, chunk_rows)]
    return all(
        0 <= offset <= entry.bytes - rows * row_bytes for offset, rows in zip(entry.offsets, batches, strict=True)
    )
