"""The folder of a fetch: what is there, what is left, its tables at the end. Before: manifest. After: fetch/download.

What is in the folder says what is done: a file is written whole or not at all, and one listing tells a restart what is
left. fetch.json is written first, unfinished, so that the folder is known as ours, and last, finished.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from hpa_ray.channels import STAINS
from hpa_ray.errors import InputError
from hpa_ray.fetch.choose import Choice, class_gains
from hpa_ray.fetch.line import NOT_AVAILABLE
from hpa_ray.fetch.unit import KEY, NOTES, Failure, Unit, Wanted
from hpa_ray.labels import format_labels
from hpa_ray.manifest import LabelTable, folder_of
from hpa_ray.output import names_in, remove_unfinished
from hpa_ray.redact import redact
from hpa_ray.schema import REJECTED_ROW, Reject, rejected_table
from hpa_ray.storage import (
    free_bytes,
    join,
    read_bytes,
    read_parquet,
    remove,
    remove_empty_folder,
    write_bytes,
    write_json,
    write_parquet,
)

FETCH_FILE, LABELS_FILE, REJECTED_FILE = "fetch.json", "labels.csv", "rejected.parquet"
FORMAT = "hpa_ray fetch 1"
ASSUMED_FILE_BYTES = 500_000
"""Of a file, as long as none is there to go by: an assumption, HPA's JPEGs of 2048 px were not measured."""


class Standing(NamedTuple):
    """What of the chosen images is there already, and what is left."""

    num_images: int
    num_complete: int
    missing: list[Wanted]
    unavailable: dict[str, Reject]
    """Images that the server did not have when it was asked."""
    retries: Counter[str]
    run: int
    """How many runs have left notes."""
    is_new: bool
    file_bytes: float
    """Mean of the files that are there, else assumed."""
    is_measured: bool

    @property
    def num_files(self) -> int:
        return sum(len(image.stains) for image in self.missing)

    @property
    def num_bytes(self) -> int:
        return round(self.num_files * self.file_bytes)


class Summary(NamedTuple):
    """What lies in the folder when a fetch is finished."""

    targets: np.ndarray  # (N, 28) uint8, of the chosen images that are there
    num_images: int
    num_files: int
    num_bytes: int
    rejects: list[Reject]
    retries: dict[str, int]


def source_of(labels_uri: str, url: str) -> dict[str, Any]:
    """What must not change between the runs of a fetch; which images are chosen, and how fast, may."""
    source = {"labels_sha256": hashlib.sha256(read_bytes(labels_uri)).hexdigest(), "url": redact(url)}
    if source["url"] != url:  # what is left out may be a token, and still tells servers apart
        source["url_sha256"] = hashlib.sha256(url.encode()).hexdigest()
    return source


def look(output: str | None, choice: Choice, source: dict[str, Any]) -> Standing:
    """One listing of the folder; nothing is written. Raises InputError if it holds something else."""
    sizes = names_in(KEY, output) if output else {}
    folder = folder_of(output or "", {name: size for name, size in sizes.items() if size})
    run, unavailable, retries = 0, dict[str, Reject](), Counter[str]()
    found = _fetch_of(output, sizes, source, has_images=bool(folder.num_images)) if output else None
    if output and found:
        run, unavailable, retries = _read_notes(output)
        unavailable = _rejected_before(output, sizes) | unavailable
        retries.update(found.get("retries", {}))
    rows = folder.find(pa.array(choice.image_ids, pa.string()))
    missing = []
    for image_id, row in zip(choice.image_ids, rows, strict=True):
        planes = folder.stains_XN[:, row].tolist() if row >= 0 else []
        there = max(planes, key=int.bit_count, default=0)  # of the format with the most stains
        stains = tuple(stain for bit, stain in enumerate(STAINS) if not there >> bit & 1)
        if stains and image_id not in unavailable:
            missing.append(Wanted(image_id, stains))
        elif not stains:
            unavailable.pop(image_id, None)
    num_complete = len(rows) - len(missing) - sum(image_id in unavailable for image_id in choice.image_ids)
    other = set(folder.other_files)
    files = [size for name, size in sizes.items() if size and name not in other]
    file_bytes = sum(files) / len(files) if files else float(ASSUMED_FILE_BYTES)
    return Standing(len(rows), num_complete, missing, unavailable, retries, run, not found, file_bytes, bool(files))


def begin(output: str, standing: Standing, plan: dict[str, Any]) -> None:
    """Make the folder ours, without what an earlier run has left unfinished. Raises InputError if the disk is small."""
    free = free_bytes(output)
    if free is not None and standing.num_bytes > free:
        raise InputError(
            f"{KEY} = {output}: the images need about {standing.num_bytes / 2**20:,.0f} MiB "
            f"({standing.num_files:,} files of {'' if standing.is_measured else 'presumably '}"
            f"{standing.file_bytes / 1000:,.0f} kB), the disk has {free / 2**20:,.0f} MiB free - "
            "free some, choose another folder or a smaller fetch.limit"
        )
    remove_unfinished(KEY, [output])
    if standing.is_new:  # what is noted there is of another server or table
        _remove_notes(output)
        remove([join(output, REJECTED_FILE), join(output, LABELS_FILE)])
    if standing.is_new or standing.missing:
        kept = {} if standing.is_new else _fetch_json(output).get("retries", {})
        write_json(join(output, FETCH_FILE), {"format": FORMAT, "finished": False, **plan, "retries": kept})


def finish(
    output: str,
    choice: Choice,
    labels: LabelTable,
    plan: dict[str, Any],
    rejects: Iterable[Reject],
    retries: Counter[str],
) -> Summary:
    """Write the tables of what the folder really holds, fetch.json last. Raises InputError if no image is complete."""
    sizes = {name: size for name, size in names_in(KEY, output).items() if size}
    folder = folder_of(output, sizes)
    complete = set(folder.image_ids.filter(pa.array(folder.complete(STAINS) >= 0)).to_pylist())
    left_out = {reject.image_id: reject for reject in rejects if reject.image_id not in complete}
    gone = {image_id for image_id, reject in left_out.items() if _is_gone(reject)}
    remove(join(output, name) for name in sizes if _image_of(name) in gone)  # planes of an image that never will be
    ordered = [left_out[image_id] for image_id in sorted(left_out)]
    write_parquet(join(output, REJECTED_FILE), rejected_table(ordered))
    targets = zip(labels.image_ids.to_pylist(), labels.labels.to_pylist(), strict=True)
    rows = sorted((image_id, format_labels(classes)) for image_id, classes in targets if image_id in complete)
    if not rows:
        reason = f", the first is: {ordered[0].reason}" if ordered else ""
        raise InputError(
            f"{KEY} = {output}: none of the {len(choice.image_ids)} images could be had - "
            f"{REJECTED_FILE} there has the reasons{reason}"
        )
    lines = [f"{image_id},{target}\n" for image_id, target in [("Id", "Target"), *rows]]
    write_bytes(join(output, LABELS_FILE), "".join(lines).encode())
    files = [size for name, size in sizes.items() if _image_of(name) in complete]
    have = np.array([image_id in complete for image_id in choice.image_ids])
    summary = Summary(choice.targets[have], len(rows), len(files), sum(files), ordered, dict(retries))
    counts = {
        "num_chosen": len(choice.image_ids),
        "num_images": summary.num_images,
        "num_files": summary.num_files,
        "num_rejected": len(ordered),
        "bytes": summary.num_bytes,
        "retries": summary.retries,
        "classes_gained": {gain.name: gain.gained for gain in class_gains(summary.targets)},
    }
    _remove_notes(output)
    write_json(join(output, FETCH_FILE), {"format": FORMAT, "finished": True, **plan, **counts})
    return summary


def _fetch_of(output: str, sizes: dict[str, int], source: dict[str, Any], *, has_images: bool) -> dict[str, Any] | None:
    """fetch.json of the fetch to go on with, None for a new one. Raises InputError if the folder is none of ours."""
    if FETCH_FILE not in sizes:
        foreign = sorted(name for name in sizes if not name.endswith(".tmp"))
        if foreign:
            raise InputError(f"{KEY} = {output}: holds other files ({foreign[0]!r}) - give an empty or new folder")
        return None
    found = _fetch_json(output)
    if found.get("format") != FORMAT:
        raise InputError(f"{KEY} = {output}: {FETCH_FILE} there is none of ours - give an empty or new folder")
    if all(found.get(key) == value for key, value in source.items()):
        return found
    if has_images:
        raise InputError(
            f"{KEY} = {output}: holds images of another fetch.url or fetch.labels - "
            "give these again, choose another folder or delete it"
        )
    return None


def _fetch_json(output: str) -> dict[str, Any]:
    try:
        found = json.loads(read_bytes(join(output, FETCH_FILE)))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_notes(output: str) -> tuple[int, dict[str, Reject], Counter[str]]:
    """Number of the next run; images that the server does not have; repeated requests of earlier runs by reason."""
    run, unavailable, retries = 0, dict[str, Reject](), Counter[str]()
    for name in sorted(name for name in names_in(KEY, join(output, NOTES)) if name.endswith(".json")):
        try:
            note = Unit(**json.loads(read_bytes(join(output, NOTES, name))))
            failures = [Failure(*values) for values in note.failures]
            run = max(run, int(name.partition("-")[0]) + 1)
        except (ValueError, TypeError, RecursionError):  # not as it was written: asked for again
            continue
        retries.update(note.retries)
        rejects = [failure.as_reject() for failure in failures]
        unavailable |= {reject.image_id: reject for reject in rejects if _is_gone(reject)}
    return run, unavailable, retries


def _remove_notes(output: str) -> None:
    remove(join(output, NOTES, name) for name in names_in(KEY, join(output, NOTES)))
    remove_empty_folder(join(output, NOTES))


def _rejected_before(output: str, sizes: dict[str, int]) -> dict[str, Reject]:
    """Images that the server did not have when the folder was finished before."""
    if REJECTED_FILE not in sizes:
        return {}
    try:
        table = read_parquet(read_bytes(join(output, REJECTED_FILE)))
    except pa.ArrowException:
        return {}
    if not table.schema.equals(REJECTED_ROW):
        return {}
    rejects = [Reject(-1, row["image_id"], row["file"], row["reason"] or "") for row in table.to_pylist()]
    return {reject.image_id: reject for reject in rejects if _is_gone(reject)}


def _image_of(name: str) -> str:
    return name.rpartition("_")[0]


def _is_gone(reject: Reject) -> bool:
    return reject.reason.startswith(NOT_AVAILABLE)
