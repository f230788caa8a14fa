"""The data of a run: where the pixels come from, the labels, and which rows belong to which part."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.ingest import ImageSource
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.manifest import (
    build_manifest,
    check_ceiling,
    classes_missing,
    list_folder,
    parse_parts,
    read_label_table,
    read_split_table,
    split_rows,
)
from hpa_ray.manifest.build import multi_hot_column
from hpa_ray.schema import Reject, Source
from hpa_ray.shards import open_shards

PARTS = ("train", "val", "test")
STATISTICS_IMAGES = 128
"""Training images whose pixels give mean and std when training straight from files; shards know theirs."""


@dataclass(frozen=True)
class Data:
    """Small next to the pixels; sent once to every worker."""

    source: Source
    image_ids: pa.Array
    targets_NK: np.ndarray  # uint8
    parts: dict[str, np.ndarray]  # name -> manifest rows, ascending
    mean: tuple[float, ...]  # per channel of the source, 0 to 1 scale
    std: tuple[float, ...]
    rejects: list[Reject]
    notes: list[str]

    def ids(self, rows: np.ndarray) -> list[str]:
        return list(self.image_ids.take(pa.array(rows)).to_pylist())


def open_data(config: Config) -> Data:
    """Open the shards or image files that the configuration names and split them. Raises InputError."""
    cfg = config.data
    if cfg.shards and cfg.images:
        raise InputError("data.shards and data.images are both set - shards already hold the images, give one of them")
    if cfg.shards:
        shard_source, table = open_shards(cfg.shards, cfg.channels)
        where = [shard_source.index.channels.index(stain) for stain in cfg.channels]
        mean = tuple(shard_source.index.mean[k] for k in where)
        std = tuple(shard_source.index.std[k] for k in where)
        source: Source = shard_source
        rejects: list[Reject] = []
        notes = []
        if table["labels"].null_count:
            raise InputError(f"data.shards = {cfg.shards}: holds images without labels - prepare with data.labels")
    elif cfg.images and cfg.labels:
        labels = read_label_table(cfg.labels)
        if labels.problems:
            raise InputError(*labels.problems)
        manifest = build_manifest(list_folder(cfg.images), labels, cfg.channels)
        num_images = manifest.table.num_rows + len(manifest.rejects)
        check_ceiling(cfg.images, manifest.rejects, num_images, on_error=cfg.on_error, max_rejected=cfg.max_rejected)
        table, rejects = manifest.table, manifest.rejects
        notes = [f"{manifest.num_unlabelled} images without a row in {cfg.labels} are not used"]
        notes = notes if manifest.num_unlabelled else []
        source = ImageSource(cfg.images, table, cfg.channels, cfg.image_size)
        mean, std = (), ()
    else:
        raise InputError("no data: give data.shards=FOLDER, or data.images=FOLDER with data.labels=CSV")
    if not table.num_rows:
        raise InputError(f"{cfg.shards or cfg.images}: none of its images can be used - `hpa-ray check` tells why")
    ids, targets = table["image_id"].combine_chunks(), multi_hot_column(table["labels"].combine_chunks())
    parts = _parts(config, ids, targets, notes)
    if not mean:
        mean, std = _statistics(config, source, parts["train"])
    return Data(source, ids, targets, parts, mean, std, rejects, notes)


def _parts(config: Config, ids: pa.Array, targets: np.ndarray, notes: list[str]) -> dict[str, np.ndarray]:
    names = ids.to_pylist()
    if config.data.split:
        table = read_split_table(config.data.split)
        assigned = np.array([table.get(name, "") for name in names])
        unknown = sorted(set(assigned.tolist()) - {*PARTS, ""})
        if unknown:
            raise InputError(f"{config.data.split}: part {unknown[0]!r} - expected {', '.join(PARTS)}")
        absent = int((assigned == "").sum())
        if absent:
            notes.append(f"{absent} images have no row in {config.data.split} and are not used")
        parts = {part: np.flatnonzero(assigned == part) for part in PARTS}
        if not len(parts["train"]) or not len(parts["val"]):
            raise InputError(f"{config.data.split}: no image of the data is in its part 'train' or 'val'")
    else:
        shares = parse_parts(config.split.parts)
        if not 2 <= len(shares) <= 3:
            raise InputError(f"split.parts = {config.split.parts!r} - training needs train/val or train/val/test")
        numbers = split_rows(targets, shares, seed=config.split.seed, keys=names)
        parts = {part: np.flatnonzero(numbers == number) for number, part in enumerate(PARTS)}
        for number, classes in classes_missing(targets, numbers, len(shares)).items():
            if classes:
                listed = ", ".join(f"{k} {CLASS_NAMES[k]}" for k in classes)
                notes.append(f"no image of {len(classes)} classes in the part {PARTS[number]}: {listed}")
    if config.data.sample_fraction < 1:
        parts["train"] = _fraction(config, targets, parts["train"], names)
    return parts


def _fraction(config: Config, targets: np.ndarray, rows: np.ndarray, names: list[str]) -> np.ndarray:
    """A part of the training rows with the same class shares."""
    share = config.data.sample_fraction
    keys = [names[row] for row in rows]
    count = round(share * len(rows))
    if count == 0:
        raise InputError(f"data.sample_fraction = {share}: of {len(rows)} training images none is left - use more")
    if count == len(rows):
        return rows
    kept = split_rows(targets[rows], [count, len(rows) - count], seed=config.split.seed, keys=keys) == 0
    return np.asarray(rows[kept])


def check_rejects(config: Config, data: Data, rejects: list[Reject]) -> None:
    """Raises InputError if images were met that can not be used, and the configuration does not allow so many."""
    cfg = config.data
    met = list({reject.row: reject for reject in rejects}.values())  # an image is met in every epoch
    everything = len(data.image_ids) + len(data.rejects)
    check_ceiling(
        cfg.images or "", data.rejects + met, everything, on_error=cfg.on_error, max_rejected=cfg.max_rejected
    )


def _statistics(config: Config, source: Source, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel over some training images, 0 to 1 scale."""
    picked = np.random.default_rng([config.run.seed, 2]).permutation(rows)[:STATISTICS_IMAGES]
    _, pixels, rejects = source.read(np.sort(picked))
    if config.data.on_error == "fail":
        check_ceiling(config.data.images or "", rejects, len(rows), on_error="fail", max_rejected=0)
    if not len(pixels):
        raise InputError("none of the first training images can be read")
    mean = pixels.mean(axis=(0, 2, 3), dtype=np.float64) / 255
    std = np.sqrt(np.square(pixels, dtype=np.uint16).mean(axis=(0, 2, 3), dtype=np.float64) / 255**2 - mean**2)
    return tuple(mean.tolist()), tuple(std.tolist())
