"""Image files -> shards: decode once, train many times. Before: manifest, ingest/reader. After: shards.

A finished shard leaves a part file; the index is written last, so a folder with an index is complete, and a stopped
`prepare` goes on where it was. The content is a pure function of the images, the labels and the settings.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.channels import STAIN_ORDER, STAINS
from hpa_ray.errors import InputError
from hpa_ray.ingest.notes import KEY, clean, finished_parts, part_uri, start_or_resume, write_part
from hpa_ray.ingest.plan import SHARD_BYTES, rows_of_shard
from hpa_ray.ingest.reader import ImageSource
from hpa_ray.ingest.stack import RESIZE_RULE
from hpa_ray.ingest.tasks import run_tasks
from hpa_ray.labels import VOCABULARY
from hpa_ray.manifest import Manifest, check_ceiling
from hpa_ray.output import disk_full_told
from hpa_ray.schema import Reject, rejected_table
from hpa_ray.shards import (
    CHECKSUMS_FILE,
    CHUNK_ROWS,
    INDEX_FILE,
    MANIFEST_FILE,
    ShardEntry,
    ShardIndex,
    SourceEntry,
    check_files,
    encode_shard,
    read_index,
    write_index,
)
from hpa_ray.shards.format import FORMAT, FORMAT_VERSION
from hpa_ray.storage import (
    exists,
    free_bytes,
    join,
    remove,
    write_bytes,
    write_parquet,
)

REJECTED_FILE = "rejected.parquet"


def prepare(
    manifest: Manifest,
    *,
    output: str,
    channels: tuple[str, ...],
    sizes: Mapping[int, str],
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    white_level: int = 65535,
    on_error: str = "fail",
    max_rejected: float = 0.01,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ShardIndex]:
    """Write the images of a manifest as shards of (C, S, S) uint8 pixels; on_progress(images done, images).

    sizes: side S in px -> folder of its shards, `output` or one below it; all are written in one pass over the files.
    Returns the index of each size. Raises InputError for images that can not be used, a folder that holds something
    else, or a disk that is too small.
    """
    stored = tuple(stain for stain in STAINS if stain in channels)
    table = _shuffled(manifest.table, seed)
    images, total = manifest.folders[0], manifest.num_images

    def check(rejects: list[Reject]) -> None:
        check_ceiling(images, rejects, total, on_error=on_error, max_rejected=max_rejected)

    check(manifest.rejects)
    if not table.num_rows:
        raise _no_image(images, total)
    rows_per_shard = rows_of_shard(table.num_rows, len(stored) * max(sizes) ** 2, shard_bytes)
    settings = {
        "images": manifest.folders,
        "channels": stored,
        "sizes": sorted(sizes),
        "seed": seed,
        "white_level": white_level,
    }
    fingerprint = _fingerprint(table, {**settings, "rows_per_shard": rows_per_shard, "version": FORMAT_VERSION})
    if finished := _finished(output, sizes, fingerprint, on_error):
        return finished
    with disk_full_told(KEY, output):
        start_or_resume(output, sizes.values(), {"fingerprint": fingerprint, **settings})

    numbers = range(-(-table.num_rows // rows_per_shard))
    parts = finished_parts(output, sizes, numbers)
    rejects = _rejects(manifest, parts)
    try:
        check(rejects)
    except InputError:  # an earlier run stopped here; look again, the files may have been mended
        parts = {number: part for number, part in parts.items() if not part["rejects"]}
        rejects = list(manifest.rejects)
    missing = [number for number in numbers if number not in parts]
    row_bytes = len(stored) * sum(size**2 for size in sizes)
    _check_disk(output, min(len(missing) * rows_per_shard, table.num_rows) * row_bytes)
    done = sum(part["rows"] + len(part["rejects"]) for part in parts.values())
    on_progress(done, table.num_rows)

    source = ImageSource(manifest.folders, table, stored, max(sizes), white_level)
    work = _ShardTask(source, output, dict(sizes), rows_per_shard)
    for part in run_tasks(work, missing, num_workers=num_workers):
        parts[part["number"]] = part
        if part["rejects"]:
            rejects += [Reject(*reject) for reject in part["rejects"]]
            check(rejects)
        done += part["rows"] + len(part["rejects"])
        on_progress(done, table.num_rows)
    if not any(part["rows"] for part in parts.values()):
        remove(part_uri(output, number) for number in parts)  # the same command looks at all files again
        raise _no_image(images, total)
    with disk_full_told(KEY, output):
        return _finish(output, sizes, manifest, table, parts, stored, white_level, fingerprint)


class _ShardTask:
    """Decode, stack and write one shard of every size."""

    def __init__(self, source: ImageSource, output: str, sizes: dict[int, str], rows_per_shard: int) -> None:
        self.source, self.output, self.sizes, self.rows_per_shard = source, output, sizes, rows_per_shard

    def __call__(self, number: int) -> dict[str, Any]:
        start = number * self.rows_per_shard
        rows = np.arange(start, min(start + self.rows_per_shard, self.source.table.num_rows))
        kept, pixels, rejects = self.source.read_sizes(rows, list(self.sizes))
        picked = self.source.table.take(pa.array(kept))
        ids, sources = picked["image_id"].to_pylist(), picked["source"].to_numpy()
        part: dict[str, Any] = {"number": number, "rows": len(ids), "rejects": rejects, "sizes": {}}
        with disk_full_told(KEY, self.output):
            for (size, folder), images in zip(self.sizes.items(), pixels, strict=True):
                data, offsets = encode_shard(ids, images)
                file = f"shard-{number:05d}.arrow"
                write_bytes(join(folder, file), data)
                part["sizes"][str(size)] = {
                    "file": file,
                    "rows": len(ids),
                    "bytes": data.size,
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "offsets": offsets,
                    "crc32": [zlib.crc32(image) for image in images],
                    "moments": _moments(images, sources, len(self.source.folders)),
                }
            write_part(self.output, part)
        return part


def _finished(output: str, sizes: Mapping[int, str], fingerprint: str, on_error: str) -> list[ShardIndex]:
    """The indexes of a `prepare` that is done, none while it is not. Raises InputError if they are of another one."""
    there = [folder for folder in sizes.values() if exists(join(folder, INDEX_FILE))]
    indexes = []
    for folder in there:
        index = read_index(folder)
        if index.fingerprint != fingerprint:
            raise InputError(f"{folder}: holds shards of other images or settings - choose another folder or delete it")
        check_files(folder, index)
        if on_error == "fail" and index.num_rejected:
            raise InputError(
                f"{folder}: {index.num_rejected} images were left out of these shards (see {REJECTED_FILE}), which "
                "data.on_error=fail does not allow - choose another folder or delete it"
            )
        indexes.append(index)
    if len(there) < len(sizes):
        return []
    clean(output, sizes.values())  # the run before may have been stopped between the last index and this
    return indexes


def _finish(
    output: str,
    sizes: Mapping[int, str],
    manifest: Manifest,
    table: pa.Table,
    parts: dict[int, dict[str, Any]],
    channels: tuple[str, ...],
    white_level: int,
    fingerprint: str,
) -> list[ShardIndex]:
    ordered = [parts[number] for number in sorted(parts)]
    rejects = _rejects(manifest, parts)
    keep = np.ones(table.num_rows, dtype=bool)
    keep[[reject.row for reject in rejects if reject.row >= 0]] = False
    kept = table.filter(pa.array(keep))
    labels = kept["labels"].combine_chunks().drop_null()
    per_source = np.bincount(kept["source"].to_numpy(), minlength=len(manifest.folders))
    indexes = []
    for size, folder in sizes.items():
        entries = [part["sizes"][str(size)] for part in ordered]
        moments = np.sum([entry["moments"] for entry in entries], axis=0)  # (sources, 2, C)
        mean, std = _mean_std(moments.sum(axis=0), kept.num_rows * size**2)
        checksums = pa.array([checksum for entry in entries for checksum in entry["crc32"]], pa.uint32())
        files = {MANIFEST_FILE: _ipc_file(kept), CHECKSUMS_FILE: _ipc_file(pa.table({"crc32": checksums}))}
        index = ShardIndex(
            format=FORMAT,
            version=FORMAT_VERSION,
            vocabulary=VOCABULARY,
            stain_order=STAIN_ORDER,
            channels=channels,
            image_size=size,
            resize_rule=RESIZE_RULE,
            white_level=white_level,
            fingerprint=fingerprint,
            num_images=kept.num_rows,
            num_rejected=len(rejects),
            mean=mean,
            std=std,
            sources=tuple(
                SourceEntry.of(uri, int(count), *_mean_std(moments[number], int(count) * size**2))
                for number, (uri, count) in enumerate(zip(manifest.folders, per_source, strict=True))
            ),
            class_counts=tuple(np.bincount(labels.flatten().to_numpy(), minlength=28).tolist()),
            chunk_rows=CHUNK_ROWS,
            shards=tuple(ShardEntry(**{key: entry[key] for key in ShardEntry.model_fields}) for entry in entries),
            manifest_sha256=hashlib.sha256(files[MANIFEST_FILE]).hexdigest(),
            checksums_sha256=hashlib.sha256(files[CHECKSUMS_FILE]).hexdigest(),
        )
        for name, content in files.items():
            write_bytes(join(folder, name), content)
        write_parquet(join(folder, REJECTED_FILE), rejected_table(rejects))
        indexes.append(index)
    written = [write_index(folder, index) for folder, index in zip(sizes.values(), indexes, strict=True)]
    clean(output, sizes.values())  # nothing a reader needs may follow the indexes
    return written


def _shuffled(table: pa.Table, seed: int) -> pa.Table:
    """One global random order, so that any run of consecutive rows is a fair sample."""
    return table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))


def _fingerprint(table: pa.Table, settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(_ipc_file(table))
    return digest.hexdigest()


def _ipc_file(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def _no_image(images: str, total: int) -> InputError:
    return InputError(
        f"data.images = {images}: none of the {total} labelled images can be used - `hpa-ray check` tells why"
    )


def _rejects(manifest: Manifest, parts: dict[int, dict[str, Any]]) -> list[Reject]:
    """What is left out so far, in the order of the shards."""
    return manifest.rejects + [Reject(*reject) for number in sorted(parts) for reject in parts[number]["rejects"]]


def _check_disk(output: str, needed: int) -> None:
    free = free_bytes(output)
    if free is not None and needed > free:
        raise InputError(
            f"prepare.output = {output}: the shards need {needed / 2**20:,.0f} MiB, "
            f"the disk has {free / 2**20:,.0f} MiB free - free some, choose another folder or a smaller data.image_size"
        )


def _moments(pixels_BCSS: np.ndarray, source_B: np.ndarray, num_sources: int) -> list[Any]:
    """Sum and sum of squares of each stain, (sources, 2, C) exact integers; image by image, to need no second copy."""
    moments = np.zeros((num_sources, 2, pixels_BCSS.shape[1]), np.int64)
    for image, source in zip(pixels_BCSS, source_B, strict=True):
        moments[source, 0] += image.sum(axis=(1, 2), dtype=np.int64)
        moments[source, 1] += np.square(image, dtype=np.uint16).sum(axis=(1, 2), dtype=np.int64)
    return list(moments.tolist())


def _mean_std(moments_2C: np.ndarray, num_pixels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each stain on the 0 to 1 scale; zeros where there are no pixels."""
    mean = moments_2C[0] / max(num_pixels, 1)
    variance = moments_2C[1] / max(num_pixels, 1) - mean**2
    return tuple((mean / 255).tolist()), tuple((np.sqrt(np.maximum(variance, 0)) / 255).tolist())
