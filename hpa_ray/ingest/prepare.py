"""Image files -> shards: decode once, train many times. Before: manifest, ingest/reader. After: shards.

A finished shard leaves a part file; the index is written last, so a folder with an index is complete, and a stopped
`prepare` goes on where it was. The content is a pure function of the images, the labels and the settings.
"""

import errno
import hashlib
import json
from collections.abc import Callable
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
from hpa_ray.shards import CHUNK_ROWS, INDEX_FILE, MANIFEST_FILE, ShardEntry, ShardIndex, encode_shard, read_index
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
    check_ceiling(images, manifest.rejects, total, on_error=on_error, max_rejected=max_rejected)
    rows_per_shard = _rows_per_shard(table.num_rows, len(stored) * image_size**2, shard_bytes)
    settings = {"images": images, "channels": stored, "image_size": image_size, "seed": seed, "on_error": on_error}
    fingerprint = _fingerprint(table, {**settings, "rows_per_shard": rows_per_shard, "version": FORMAT_VERSION})
    if exists(join(output, INDEX_FILE)):
        index = read_index(output)
        if index.fingerprint == fingerprint:
            return index
        raise InputError(f"{output}: holds shards of other images or settings - choose another folder or delete it")
    _start_or_resume(output, {"fingerprint": fingerprint, **settings})

    numbers = range(-(-table.num_rows // rows_per_shard))
    parts = {number: part for number in numbers if (part := _read_part(output, number)) is not None}
    missing = [number for number in numbers if number not in parts]
    _check_disk(output, len(missing) * rows_per_shard * len(stored) * image_size**2)
    done = sum(part["rows"] + len(part["rejects"]) for part in parts.values())
    on_progress(done, table.num_rows)

    source = ImageSource(images, table, stored, image_size, on_error)
    rejects = manifest.rejects + [Reject(*reject) for part in parts.values() for reject in part["rejects"]]
    work = _ShardTask(source, output, rows_per_shard)
    for result in run_tasks(work, missing, num_workers=num_workers):
        part = json.loads(result["part"])
        parts[part["number"]] = part
        rejects += [Reject(*reject) for reject in part["rejects"]]
        check_ceiling(images, rejects, total, on_error=on_error, max_rejected=max_rejected)
        done += part["rows"] + len(part["rejects"])
        on_progress(done, table.num_rows)
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
        try:
            write_bytes(join(self.output, file), data)
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
            write_json(_part_uri(self.output, number), part)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"prepare.output = {self.output}: no space left on the disk - free some and run the same command "
                    "again, it goes on where it was"
                ) from error
            raise
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
    rejects = [Reject(*reject) for part in ordered for reject in part["rejects"]]
    keep = np.ones(table.num_rows, dtype=bool)
    keep[[reject.row for reject in rejects]] = False
    kept = table.filter(pa.array(keep))
    num_pixels = max(kept.num_rows, 1) * image_size**2
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
        num_rejected=len(rejects) + len(manifest.rejects),
        mean=tuple((mean / 255).tolist()),
        std=tuple((np.sqrt(variance) / 255).tolist()),
        class_counts=tuple(np.bincount(labels.flatten().to_numpy(), minlength=28).tolist()),
        chunk_rows=CHUNK_ROWS,
        shards=tuple(ShardEntry(**{key: part[key] for key in ShardEntry.model_fields}) for part in ordered),
    )
    write_bytes(join(output, MANIFEST_FILE), _ipc_file(kept))
    write_parquet(join(output, REJECTED_FILE), rejected_table(manifest.rejects + rejects))
    write_json(join(output, INDEX_FILE), index.model_dump(mode="json"))  # nothing a reader needs may follow this line
    remove([_part_uri(output, number) for number in parts] + [join(output, PLAN_FILE)])
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


def _start_or_resume(output: str, plan: dict[str, Any]) -> None:
    try:
        names = list_files(output)
    except FileNotFoundError:
        names = {}
    except NotADirectoryError as error:
        raise InputError(f"prepare.output = {output}: is a file - give a folder") from error
    remove([join(output, name) for name in names if name.endswith(".tmp")])
    if PLAN_FILE in names:
        if json.loads(read_bytes(join(output, PLAN_FILE))).get("fingerprint") != plan["fingerprint"]:
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


def _part_uri(output: str, number: int) -> str:
    return join(output, PARTS, f"shard-{number:05d}.json")


def _read_part(output: str, number: int) -> dict[str, Any] | None:
    uri = _part_uri(output, number)
    return json.loads(read_bytes(uri)) if exists(uri) else None


def _moments(pixels_BCSS: np.ndarray) -> tuple[list[int], list[int]]:
    """Sum and sum of squares of each stain, as exact integers; image by image, to need no second copy of a shard."""
    sums = np.zeros(pixels_BCSS.shape[1], np.int64)
    squares = np.zeros_like(sums)
    for image in pixels_BCSS:
        sums += image.sum(axis=(1, 2), dtype=np.int64)
        squares += np.square(image, dtype=np.uint16).sum(axis=(1, 2), dtype=np.int64)
    return sums.tolist(), squares.tolist()
