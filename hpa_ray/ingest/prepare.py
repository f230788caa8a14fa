"""Image files -> shards: decode once, train many times. Before: manifest, ingest/reader. After: shards.

A finished shard leaves a part file; the index is written last, so a folder with an index is complete, and a stopped
`prepare` goes on where it was. The content is a pure function of the images, the labels and the settings.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.channels import STAIN_ORDER, STAINS
from hpa_ray.errors import InputError
from hpa_ray.ingest.reader import ImageSource
from hpa_ray.ingest.stack import RESIZE_RULE
from hpa_ray.ingest.tasks import run_tasks
from hpa_ray.labels import VOCABULARY
from hpa_ray.manifest import Manifest, check_ceiling
from hpa_ray.schema import Reject, rejected_table
from hpa_ray.shards import (
    CHUNK_ROWS,
    INDEX_FILE,
    MANIFEST_FILE,
    ShardEntry,
    ShardIndex,
    check_files,
    encode_shard,
    read_index,
)
from hpa_ray.shards.format import FORMAT, FORMAT_VERSION
from hpa_ray.storage import (
    exists,
    free_bytes,
    join,
    list_files,
    read_bytes,
    remove,
    remove_empty_folder,
    write_bytes,
    write_json,
    write_parquet,
)

PLAN_FILE = "plan.json"
PARTS = "parts"
REJECTED_FILE = "rejected.parquet"
MIN_SHARDS = 16
"""A small data set still gives every CPU of a small cluster something to do, as far as whole chunks allow."""


def prepare(
    manifest: Manifest,
    *,
    images: str,
    output: str,
    channels: tuple[str, ...],
    image_size: int,
    seed: int = 0,
    shard_bytes: int = 128 * 2**20,
    on_error: str = "fail",
    max_rejected: float = 0.01,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ShardIndex:
    """Write the images of a manifest as shards of (C, S, S) uint8 pixels; on_progress(images done, images).

    Returns the index. Raises InputError for images that can not be used, a folder that holds something else, or a
    disk that is too small.
    """
    stored = tuple(stain for stain in STAINS if stain in channels)
    table = _shuffled(manifest.table, seed)
    total = table.num_rows + len(manifest.rejects)

    def check(rejects: list[Reject]) -> None:
        check_ceiling(images, rejects, total, on_error=on_error, max_rejected=max_rejected)

    check(manifest.rejects)
    if not table.num_rows:
        raise _no_image(images, total)
    rows_per_shard = _rows_per_shard(table.num_rows, len(stored) * image_size**2, shard_bytes)
    settings = {"images": images, "channels": stored, "image_size": image_size, "seed": seed}
    fingerprint = _fingerprint(table, {**settings, "rows_per_shard": rows_per_shard, "version": FORMAT_VERSION})
    if exists(join(output, INDEX_FILE)):
        index = read_index(output)
        if index.fingerprint != fingerprint:
            raise InputError(f"{output}: holds shards of other images or settings - choose another folder or delete it")
        check_files(output, index)
        if on_error == "fail" and index.num_rejected:
            raise InputError(
                f"{output}: {index.num_rejected} images were left out of these shards (see {REJECTED_FILE}), which "
                "data.on_error=fail does not allow - choose another folder or delete it"
            )
        return index
    with _disk_full(output):
        _start_or_resume(output, {"fingerprint": fingerprint, **settings})

    numbers = range(-(-table.num_rows // rows_per_shard))
    parts = _finished_parts(output, numbers)
    try:
        check(_rejects(manifest, parts))
    except InputError:  # an earlier run stopped here; look again, the files may have been mended
        parts = {number: part for number, part in parts.items() if not part["rejects"]}
    missing = [number for number in numbers if number not in parts]
    _check_disk(output, min(len(missing) * rows_per_shard, table.num_rows) * len(stored) * image_size**2)
    done = sum(part["rows"] + len(part["rejects"]) for part in parts.values())
    on_progress(done, table.num_rows)

    source = ImageSource(images, table, stored, image_size)
    work = _ShardTask(source, output, rows_per_shard)
    for result in run_tasks(work, missing, num_workers=num_workers):
        part = json.loads(result["part"])
        parts[part["number"]] = part
        check(_rejects(manifest, parts))
        done += part["rows"] + len(part["rejects"])
        on_progress(done, table.num_rows)
    if not any(part["rows"] for part in parts.values()):
        remove(join(output, PARTS, _part_file(number)) for number in parts)  # the same command looks at all files again
        raise _no_image(images, total)
    with _disk_full(output):
        return _finish(output, manifest, table, parts, stored, image_size, fingerprint)


class _ShardTask:
    """Decode, stack and write one shard; a class so that Ray sends its parts once."""

    def __init__(self, source: ImageSource, output: str, rows_per_shard: int) -> None:
        self.source, self.output, self.rows_per_shard = source, output, rows_per_shard

    def __call__(self, number: int) -> dict[str, Any]:
        start = number * self.rows_per_shard
        rows = np.arange(start, min(start + self.rows_per_shard, self.source.table.num_rows))
        images = self.source.read(rows)
        ids = self.source.table["image_id"].take(pa.array(images.rows_B)).to_pylist()
        data, offsets = encode_shard(ids, images.pixels_BCSS)
        file = f"shard-{number:05d}.arrow"
        sums, squares = _moments(images.pixels_BCSS)
        part = {
            "number": number,
            "file": file,
            "rows": len(ids),
            "bytes": data.size,
            "sha256": hashlib.sha256(data).hexdigest(),
            "offsets": offsets,
            "sums": sums,
            "squares": squares,
            "rejects": images.rejects,
        }
        with _disk_full(self.output):
            write_bytes(join(self.output, file), data)
            write_json(join(self.output, PARTS, _part_file(number)), part)
        return {"part": json.dumps(part)}


def _finish(
    output: str,
    manifest: Manifest,
    table: pa.Table,
    parts: dict[int, dict[str, Any]],
    channels: tuple[str, ...],
    image_size: int,
    fingerprint: str,
) -> ShardIndex:
    ordered = [parts[number] for number in sorted(parts)]
    rejects = _rejects(manifest, parts)
    keep = np.ones(table.num_rows, dtype=bool)
    keep[[reject.row for reject in rejects if reject.row >= 0]] = False
    kept = table.filter(pa.array(keep))
    num_pixels = kept.num_rows * image_size**2
    mean = np.sum([part["sums"] for part in ordered], axis=0) / num_pixels
    variance = np.sum([part["squares"] for part in ordered], axis=0) / num_pixels - mean**2
    labels = kept["labels"].combine_chunks().drop_null()
    index = ShardIndex(
        format=FORMAT,
        version=FORMAT_VERSION,
        vocabulary=VOCABULARY,
        stain_order=STAIN_ORDER,
        channels=channels,
        image_size=image_size,
        resize_rule=RESIZE_RULE,
        fingerprint=fingerprint,
        num_images=kept.num_rows,
        num_rejected=len(rejects),
        mean=tuple((mean / 255).tolist()),
        std=tuple((np.sqrt(np.maximum(variance, 0)) / 255).tolist()),
        class_counts=tuple(np.bincount(labels.flatten().to_numpy(), minlength=28).tolist()),
        chunk_rows=CHUNK_ROWS,
        shards=tuple(ShardEntry(**{key: part[key] for key in ShardEntry.model_fields}) for part in ordered),
    )
    write_bytes(join(output, MANIFEST_FILE), _ipc_file(kept))
    write_parquet(join(output, REJECTED_FILE), rejected_table(rejects))
    write_json(join(output, INDEX_FILE), index.model_dump(mode="json"))  # nothing a reader needs may follow this line
    remove([join(output, PARTS, _part_file(number)) for number in parts] + [join(output, PLAN_FILE)])
    remove_empty_folder(join(output, PARTS))
    return index


def _shuffled(table: pa.Table, seed: int) -> pa.Table:
    """One global random order, so that any run of consecutive rows is a fair sample."""
    return table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))


def _rows_per_shard(num_rows: int, row_bytes: int, shard_bytes: int) -> int:
    for_all_cpus = -(-num_rows // MIN_SHARDS // CHUNK_ROWS) * CHUNK_ROWS
    return int(max(CHUNK_ROWS, min(for_all_cpus, shard_bytes // row_bytes // CHUNK_ROWS * CHUNK_ROWS)))


def _fingerprint(table: pa.Table, settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(_ipc_file(table))
    return digest.hexdigest()


def _ipc_file(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


@contextmanager
def _disk_full(output: str) -> Iterator[None]:
    """Say it plainly when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"prepare.output = {output}: no space left on the disk - free some and run the same command again, "
            "it goes on where it was"
        ) from error


def _no_image(images: str, total: int) -> InputError:
    return InputError(
        f"data.images = {images}: none of the {total} labelled images can be used - `hpa-ray check` tells why"
    )


def _rejects(manifest: Manifest, parts: dict[int, dict[str, Any]]) -> list[Reject]:
    """What is left out so far, in the order of the shards."""
    return manifest.rejects + [Reject(*reject) for number in sorted(parts) for reject in parts[number]["rejects"]]


def _start_or_resume(output: str, plan: dict[str, Any]) -> None:
    try:
        names = _names(output)
    except NotADirectoryError as error:
        raise InputError(f"prepare.output = {output}: is a file - give a folder") from error
    remove([join(output, name) for name in names if name.endswith(".tmp")])
    remove([join(output, PARTS, name) for name in _names(join(output, PARTS)) if name.endswith(".tmp")])
    if PLAN_FILE in names:
        try:
            found = json.loads(read_bytes(join(output, PLAN_FILE)))["fingerprint"]
        except (ValueError, TypeError, LookupError):
            found = "damaged"
        if found != plan["fingerprint"]:
            raise InputError(
                f"{output}: holds an unfinished prepare of other images or settings - "
                "choose another folder or delete it"
            )
        return
    foreign = sorted(name for name in names if not name.endswith(".tmp"))
    if foreign:
        raise InputError(f"prepare.output = {output}: holds other files ({foreign[0]!r}) - give an empty or new folder")
    write_json(join(output, PLAN_FILE), plan)


def _check_disk(output: str, needed: int) -> None:
    free = free_bytes(output)
    if free is not None and needed > free:
        raise InputError(
            f"prepare.output = {output}: the shards need {needed / 2**20:,.0f} MiB, "
            f"the disk has {free / 2**20:,.0f} MiB free - free some, choose another folder or a smaller data.image_size"
        )


def _part_file(number: int) -> str:
    return f"shard-{number:05d}.json"


def _finished_parts(output: str, numbers: range) -> dict[int, dict[str, Any]]:
    """What an earlier run has finished: parts whose shard is there and of the size that it was written with."""
    noted, sizes = _names(join(output, PARTS)), _names(output)
    files = [_part_file(number) for number in numbers if _part_file(number) in noted]
    parts = {}
    for file in files:
        try:
            part = json.loads(read_bytes(join(output, PARTS, file)))
            if sizes.get(part["file"]) == part["bytes"]:
                parts[int(part["number"])] = part
        except (ValueError, TypeError, LookupError):  # not as it was written: done again
            continue
    return parts


def _names(folder: str) -> dict[str, int]:
    try:
        return list_files(folder)
    except FileNotFoundError:
        return {}


def _moments(pixels_BCSS: np.ndarray) -> tuple[list[int], list[int]]:
    """Sum and sum of squares of each stain, as exact integers; image by image, to need no second copy of a shard."""
    sums = np.zeros(pixels_BCSS.shape[1], np.int64)
    squares = np.zeros_like(sums)
    for image in pixels_BCSS:
        sums += image.sum(axis=(1, 2), dtype=np.int64)
        squares += np.square(image, dtype=np.uint16).sum(axis=(1, 2), dtype=np.int64)
    return sums.tolist(), squares.tolist()
