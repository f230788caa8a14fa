"""Folder listing + label table -> manifest: which images there are, which can be used, what is wrong with the rest."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest.folder import Folder
from hpa_ray.manifest.tables import SHOWN, LabelTable
from hpa_ray.redact import redact
from hpa_ray.schema import LABELS, MANIFEST_ROW, Reject
from hpa_ray.storage import join


class Manifest(NamedTuple):
    """`table` follows schema.MANIFEST_ROW, sorted by image id."""

    table: pa.Table
    rejects: list[Reject]
    folders: tuple[str, ...]  # by number of the source
    notes: list[str]  # what the user should know of images that are not used

    @property
    def image_ids(self) -> pa.Array:
        return self.table["image_id"].combine_chunks()

    @property
    def num_images(self) -> int:
        return int(self.table.num_rows) + len(self.rejects)

    def targets(self) -> np.ndarray:
        """(N, 28) uint8 multi-hot labels."""
        return multi_hot_column(self.table["labels"].combine_chunks())


def multi_hot_column(labels: pa.ListArray) -> np.ndarray:
    """A list<int8> column without nulls -> (N, 28) uint8, without a Python object per row."""
    targets = np.zeros((len(labels), NUM_CLASSES), dtype=np.uint8)
    rows = np.repeat(np.arange(len(labels)), labels.value_lengths().to_numpy(zero_copy_only=False))
    targets[rows, labels.flatten().to_numpy()] = 1
    return targets


def build_manifest(
    folder: Folder, labels: LabelTable | None, channels: Sequence[str], *, source: int = 0
) -> tuple[pa.Table, list[Reject], list[str]]:
    """The images that have all `channels` (and, if a table is given, labels); the others as rejects with a reason.

    Returns rows of schema.MANIFEST_ROW sorted by image id, rejects sorted by image id, and the ids without labels. Of
    a source after the first, rows of the table without any file are no rejects: such tables list what could be had.
    """
    ids = folder.image_ids if labels is None else labels.image_ids
    order = pc.sort_indices(ids)
    ids = ids.take(order)
    at = folder.find(ids)
    chosen = np.where(at >= 0, folder.complete(channels)[at], -1)
    kept = pa.array(chosen >= 0)
    formats = pa.DictionaryArray.from_arrays(pa.array(chosen[chosen >= 0], pa.int8()), pa.array(folder.extensions))
    columns = [
        ids.filter(kept),
        pa.array(np.full(len(formats), source, np.int8)),
        formats,
        pa.nulls(len(formats), LABELS) if labels is None else labels.labels.take(order).filter(kept),
    ]
    bad = np.flatnonzero((chosen < 0) & ((at >= 0) | (source == 0)))
    names = ids.take(pa.array(bad)).to_pylist()
    rejects = [_reject(folder, name, image, channels, source) for name, image in zip(names, at[bad], strict=True)]
    unlabelled: list[str] = []
    if labels is not None:
        known = pc.is_in(folder.image_ids, value_set=labels.image_ids)
        unlabelled = folder.image_ids.filter(pc.invert(known)).to_pylist()
    return pa.table(columns, schema=MANIFEST_ROW), rejects, unlabelled


def _reject(folder: Folder, image_id: str, image: int, channels: Sequence[str], source: int) -> Reject:
    def of(file: str, reason: str) -> Reject:
        return Reject(-1, image_id, redact(join(folder.uri, file)) if source else file, reason)

    files = folder.stains_of(image) if image >= 0 else {}
    missing = [stain for stain in channels if stain not in files]
    if len(missing) == len(channels):
        return of(f"{image_id}_{channels[0]}.png", "no image files")
    present = next(stain for stain in channels if stain in files)
    if missing:
        return of(f"{image_id}_{missing[0]}.{files[present][0]}", f"missing: {', '.join(missing)} plane")
    formats = sorted({extension for stain in channels for extension in files[stain]})
    return of(f"{image_id}_{channels[0]}.{files[channels[0]][0]}", f"planes in different formats: {', '.join(formats)}")


def problem_lines(where: str, rejects: Sequence[Reject], *, shown: int = SHOWN) -> list[str]:
    """One line per rejected image, the first few, then how many more."""
    lines = [f"{file_of(where, reject)}: {reject.reason}" for reject in rejects[:shown]]
    if len(rejects) > shown:
        lines.append(f"{where}: and {len(rejects) - shown} more images like these")
    return lines


def file_of(where: str, reject: Reject) -> str:
    """The file in question: rejects of data.images carry its name in the folder, those of other sources all of it."""
    return reject.file if "/" in reject.file else join(where, reject.file)


def check_ceiling(
    where: str, rejects: Sequence[Reject], num_images: int, *, on_error: str, max_rejected: float
) -> None:
    """Raises InputError if the policy does not allow these images to be left out."""
    if not rejects:
        return
    if on_error == "fail":
        advice = "mend them, or leave such images out with data.on_error=quarantine"
        raise InputError(
            *problem_lines(where, rejects), f"{len(rejects)} of {num_images} images can not be used: {advice}"
        )
    if len(rejects) > max_rejected * num_images:
        raise InputError(
            *problem_lines(where, rejects),
            f"{len(rejects)} of {num_images} images can not be used, more than data.max_rejected={max_rejected} allows",
        )
