"""Several sources of images with their own label tables -> one manifest. Before: manifest/build. After: ingest, stream.

The first source is data.images with data.labels, the others are those of data.extra. An image that is in more than one
(the same Id, or the same group of near duplicates) comes in once, by data.conflict.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpa_ray.config import DataConfig
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest.build import Manifest, build_manifest
from hpa_ray.manifest.folder import list_folder
from hpa_ray.manifest.tables import GroupTable, open_groups, read_label_table
from hpa_ray.schema import LABELS, MANIFEST_ROW
from hpa_ray.storage import absolute, exists, join

LABELS_FILE = "labels.csv"
"""Where a folder of data.extra has its label table unless another one is named."""


class ImageSet(NamedTuple):
    """One source of images as the user names it."""

    images: str
    labels: str | None


def image_sets(cfg: DataConfig) -> list[ImageSet]:
    """The sources of the configuration, the first one first. Raises InputError if there is none."""
    if not cfg.images:
        raise InputError("no images: give data.images=FOLDER")
    first = ImageSet(cfg.images, cfg.labels)
    more = []
    for word in cfg.extra:
        images, at, labels = word.rpartition("@")
        if not (at and labels.partition("?")[0].endswith(".csv")):
            images, labels = word, join(word, LABELS_FILE)
        more.append(ImageSet(absolute(images), absolute(labels)))
    names = [first.images, *(source.images for source in more)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"data.extra: {twice[0]} is named more than once - name each source once")
    return [first, *more]


def open_images(cfg: DataConfig, *, channels: tuple[str, ...] | None = None) -> Manifest:
    """List every source and join them. Labels are null where the first source has no table (data.labels unset).

    Raises InputError for a source that can not be read or has a damaged label table.
    """
    parts, rejects, notes, folders, problems = [], [], [], [], []
    for number, (images, labels_uri) in enumerate(image_sets(cfg)):
        if number:
            check_extra(images, labels_uri)
        labels = None if labels_uri is None else read_label_table(labels_uri)
        if labels is not None and labels.problems:
            problems += labels.problems
            continue
        folder = list_folder(images, key="data.extra" if number else "data.images")
        table, some, unlabelled = build_manifest(folder, labels, channels or cfg.channels, source=number)
        parts.append(table)
        rejects += some
        folders.append(images)
        if unlabelled:
            notes.append(f"{len(unlabelled):,} images have no row in {labels_uri} and are not used")
        if number and labels is not None and (absent := len(labels.image_ids) - table.num_rows - len(some)):
            notes.append(f"{absent:,} rows of {labels_uri} have no files in {images} and are not used")
    if problems:
        raise InputError(*problems)
    groups = open_groups(cfg.groups, pa.concat_arrays([part["image_id"].combine_chunks() for part in parts]))
    if len(parts) == 1:
        return Manifest(parts[0], rejects, tuple(folders), notes)
    table, more = join_tables(parts, groups, cfg.conflict)
    return Manifest(table, rejects, tuple(folders), notes + more)


def check_extra(images: str, labels: str | None) -> None:
    """Raises InputError if a further source is not there, or its table is not where it is expected."""
    try:
        has_images = exists(images)
        has_labels = labels != join(images, LABELS_FILE) or exists(labels)
    except OSError as error:
        raise InputError(f"data.extra = {images}: can not be looked at ({' '.join(str(error).split())})") from error
    if not has_images:
        raise InputError(f"data.extra = {images}: no such folder")
    if not has_labels:
        raise InputError(
            f"data.extra = {images}: no {LABELS_FILE} in it - write its table there (Id,Target), "
            f"or name it: {images}@TABLE.csv"
        )


def join_tables(parts: list[pa.Table], groups: GroupTable | None, conflict: str) -> tuple[pa.Table, list[str]]:
    """Manifest rows of several sources -> one table sorted by image id, and notes on what was left out."""
    whole = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    source = whole["source"].to_numpy()
    same = identities(whole["image_id"].combine_chunks(), groups)
    first = np.full(same.max(initial=-1) + 1, 127, np.int8)
    np.minimum.at(first, same, source)
    last = np.zeros(len(first), np.int8)
    np.maximum.at(last, same, source)
    shared = (first < last)[same]  # rows whose image is in several sources

    masks = label_masks(whole["labels"].combine_chunks())
    union = np.zeros(len(first), np.uint32)
    np.bitwise_or.at(union, same[shared], masks[shared])
    differ = np.zeros(len(first), bool)
    differ[same[shared & (masks != union[same])]] = True  # some row lacks a label that another one has

    keep = ~shared | (source == first[same])
    if conflict == "drop":
        keep &= ~differ[same]
    kept = whole.filter(pa.array(keep))
    if conflict == "union" and differ.any():
        merged = np.where(shared, union[same], masks)[keep]
        kept = kept.set_column(MANIFEST_ROW.get_field_index("labels"), "labels", label_lists(merged))
    notes = []
    if num_shared := int((first < last).sum()):
        what = {
            "first": "the first source's labels stand",
            "union": "their labels are united",
            "drop": "these are left out",
        }[conflict]
        notes.append(
            f"{num_shared:,} images are in more than one source and come in once, from the first; "
            f"the labels of {int(differ.sum()):,} differ, and {what} (data.conflict={conflict})"
        )
    return kept.take(pc.sort_indices(kept["image_id"])).cast(MANIFEST_ROW), notes


def identities(image_ids: pa.Array, groups: GroupTable | None) -> np.ndarray:
    """(N,) int64: the same number for the same Id and for the Ids of a group."""
    coded = image_ids.dictionary_encode()
    rows = coded.indices.to_numpy(zero_copy_only=False)
    codes = np.arange(len(coded.dictionary)) if groups is None else groups.codes_of(coded.dictionary)
    _, dense = np.unique(codes, return_inverse=True)
    return np.asarray(dense[rows], np.int64)


def label_masks(labels: pa.ListArray) -> np.ndarray:
    """list<int8> -> (N,) uint32 with bit k set where class k is on the image; null counts as no class."""
    lengths = labels.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    masks = np.zeros(len(labels), np.uint32)
    bits = np.left_shift(np.uint32(1), labels.flatten().to_numpy(zero_copy_only=False).astype(np.uint32))
    np.bitwise_or.at(masks, np.repeat(np.arange(len(labels)), lengths), bits)
    return masks


def label_lists(masks: np.ndarray) -> pa.ListArray:
    """The inverse of `label_masks`: classes ascending."""
    distinct, where = np.unique(masks, return_inverse=True)
    lists = [[k for k in range(NUM_CLASSES) if mask >> k & 1] for mask in distinct.tolist()]
    return pa.array(lists, LABELS).take(pa.array(where))
