"""Folder listing + label table -> manifest: which images there are, which can be used, what is wrong with the rest."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpa_ray.channels import STAINS
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest.tables import ID_CHARACTERS, SHOWN, LabelTable
from hpa_ray.schema import LABELS, MANIFEST_ROW, Reject
from hpa_ray.storage import list_files

EXTENSIONS = ("png",)
FILE_NAME = re.compile(rf"(?P<id>{ID_CHARACTERS})_(?P<stain>{'|'.join(STAINS)})\.(?P<extension>[A-Za-z0-9]+)")


class Folder(NamedTuple):
    """One listing of an images folder."""

    stains: dict[str, dict[str, str]]  # image id -> stain -> extension
    sizes: dict[str, int]  # file name -> bytes
    other_files: list[str]  # names that are no `<Id>_<color>.<ext>` of a known format


class Manifest(NamedTuple):
    """`table` follows schema.MANIFEST_ROW, sorted by image id."""

    table: pa.Table
    rejects: list[Reject]
    num_unlabelled: int

    @property
    def image_ids(self) -> pa.Array:
        return self.table["image_id"].combine_chunks()

    def targets(self) -> np.ndarray:
        """(N, 28) uint8 multi-hot labels."""
        return multi_hot_column(self.table["labels"].combine_chunks())


def multi_hot_column(labels: pa.ListArray) -> np.ndarray:
    """A list<int8> column without nulls -> (N, 28) uint8, without a Python object per row."""
    targets = np.zeros((len(labels), NUM_CLASSES), dtype=np.uint8)
    rows = np.repeat(np.arange(len(labels)), labels.value_lengths().to_numpy(zero_copy_only=False))
    targets[rows, labels.flatten().to_numpy()] = 1
    return targets


def list_folder(uri: str) -> Folder:
    """Raises InputError if the folder is missing, empty, or holds no image file."""
    try:
        sizes = list_files(uri)
    except FileNotFoundError as error:
        raise InputError(f"data.images = {uri}: no such folder") from error
    except NotADirectoryError as error:
        raise InputError(f"data.images = {uri}: is a file - give the folder that holds the images") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"data.images = {uri}: can not be listed ({' '.join(str(error).split())})") from error
    stains: dict[str, dict[str, str]] = {}
    other = []
    for name in sizes:
        match = FILE_NAME.fullmatch(name)
        if match is None or match["extension"].lower() not in EXTENSIONS:
            other.append(name)
        else:
            extensions = stains.setdefault(match["id"], {})  # a.png goes before a.PNG, in whatever order they come
            extensions[match["stain"]] = max(match["extension"], extensions.get(match["stain"], ""))
    if not stains:
        found = f"its {len(sizes)} files look like {sorted(sizes)[0]!r}" if sizes else "it holds no files"
        raise InputError(
            f"data.images = {uri}: no files named <Id>_<color>.png, color one of {', '.join(STAINS)}; {found}"
        )
    return Folder(stains, sizes, sorted(other))


def build_manifest(folder: Folder, labels: LabelTable | None, channels: Sequence[str]) -> Manifest:
    """The images that have all `channels` (and, if a table is given, labels); the others as rejects with a reason."""
    ids = pa.array(list(folder.stains), pa.string()) if labels is None else labels.image_ids
    order = pc.sort_indices(ids)
    kept, kept_extensions, rejects = [], [], []
    for row, image_id in zip(order.to_pylist(), ids.take(order).to_pylist(), strict=True):
        files = folder.stains.get(image_id, {})
        extensions = {files.get(stain) for stain in channels}
        if len(extensions) == 1 and None not in extensions:
            kept.append(row)
            kept_extensions.append(extensions.pop())
        else:
            rejects.append(_reject(image_id, files, channels))
    picked = pa.array(kept, pa.int64())
    columns = [
        ids.take(picked),
        pa.array(kept_extensions, MANIFEST_ROW.field("extension").type),
        pa.nulls(len(kept), LABELS) if labels is None else labels.labels.take(picked),
    ]
    unlabelled = 0 if labels is None else len(folder.stains.keys() - set(ids.to_pylist()))
    return Manifest(pa.table(columns, schema=MANIFEST_ROW), rejects, unlabelled)


def _reject(image_id: str, files: dict[str, str], channels: Sequence[str]) -> Reject:
    missing = [stain for stain in channels if stain not in files]
    extensions = sorted({files[stain] for stain in channels if stain in files})
    if len(missing) == len(channels):
        return Reject(-1, image_id, f"{image_id}_{channels[0]}.png", "no image files")
    if missing:
        name = f"{image_id}_{missing[0]}.{extensions[0]}"
        return Reject(-1, image_id, name, f"missing: {', '.join(missing)} plane")
    name = f"{image_id}_{channels[0]}.{files[channels[0]]}"
    return Reject(-1, image_id, name, f"planes in different formats: {', '.join(extensions)}")


def problem_lines(where: str, rejects: Sequence[Reject], *, shown: int = SHOWN) -> list[str]:
    """One line per rejected image, the first few, then how many more."""
    lines = [f"{where}/{reject.file}: {reject.reason}" for reject in rejects[:shown]]
    if len(rejects) > shown:
        lines.append(f"{where}: and {len(rejects) - shown} more images like these")
    return lines


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
