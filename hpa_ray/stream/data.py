"""The data of a run: where the pixels come from, the labels, and which rows belong to which part."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.ingest import open_source
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.manifest import (
    assign_parts,
    check_ceiling,
    classes_missing,
    multi_hot_column,
    open_groups,
    parse_parts,
    read_split_table,
    split_rows,
)
from hpa_ray.schema import Reject, Source
from hpa_ray.shards import ShardIndex, ShardSource
from hpa_ray.stream.sampling import Sampling, expected_copies

PARTS = ("train", "val", "test")
STATISTICS_IMAGES = 128
"""Training images of each source whose pixels give its mean and std when training straight from files."""

RARE_SHARE = 0.01
"""Of the competition's images: the seven rarest classes."""

# N images, C channels, M sources


class Matching(NamedTuple):
    """Per source and channel: what brings its intensities (0 to 255) to the mean and std of the first source."""

    gain_MC: np.ndarray  # float32
    offset_MC: np.ndarray  # float32


class Moments(NamedTuple):
    mean: tuple[float, ...]  # per channel, 0 to 1 scale
    std: tuple[float, ...]


def rare_classes(target_NK: np.ndarray) -> np.ndarray:
    """(K,) bool: the classes that are there, but in a smaller share of these images than RARE_SHARE."""
    count_K = target_NK.sum(axis=0)
    rare_K: np.ndarray = (count_K > 0) & (count_K < RARE_SHARE * len(target_NK))
    return rare_K


@dataclass(frozen=True)
class Data:
    """Small next to the pixels; sent once to every worker."""

    source: Source
    image_ids: pa.Array
    targets_NK: np.ndarray  # uint8
    source_N: np.ndarray  # int8, number of the source of each image
    parts: dict[str, np.ndarray]  # name -> manifest rows, ascending
    mean: tuple[float, ...]  # per channel, 0 to 1 scale; of the first source
    std: tuple[float, ...]
    matching: Matching | None  # None where all images are of the first source
    rejects: list[Reject]
    notes: list[str]

    @property
    def shares_K(self) -> np.ndarray:
        """Part of the training images that has each class, float64."""
        shares: np.ndarray = self.targets_NK[self.parts["train"]].mean(axis=0)
        return shares

    @property
    def rare_K(self) -> np.ndarray:
        """bool: the classes that are there, but in a smaller share of the training images than RARE_SHARE."""
        return rare_classes(self.targets_NK[self.parts["train"]])

    def ids(self, rows: np.ndarray) -> list[str]:
        return list(self.image_ids.take(pa.array(rows)).to_pylist())


class Opened(NamedTuple):
    """What is known of the images of a run before any pixel is looked at."""

    source: Source
    image_ids: pa.Array
    targets_NK: np.ndarray  # uint8
    source_N: np.ndarray
    parts: dict[str, np.ndarray]  # name -> manifest rows, ascending
    rejects: list[Reject]
    notes: list[str]


def open_parts(config: Config) -> Opened:
    """Open the shards or image files that the configuration names and split them. Raises InputError."""
    cfg = config.data
    if not (cfg.shards or (cfg.images and cfg.labels)):
        raise InputError("no data: give data.shards=FOLDER, or data.images=FOLDER with data.labels=CSV")
    source, table, _, rejects, notes = open_source(cfg)
    if table["labels"].null_count:
        raise InputError(f"data.shards = {cfg.shards}: holds images without labels - prepare with data.labels")
    everything = table.num_rows + len(rejects)
    check_ceiling(cfg.images or "", rejects, everything, on_error=cfg.on_error, max_rejected=cfg.max_rejected)
    if not table.num_rows:
        raise InputError(f"{cfg.shards or cfg.images}: none of its images can be used - `hpa-ray check` tells why")
    ids, targets = table["image_id"].combine_chunks(), multi_hot_column(table["labels"].combine_chunks())
    source_N = table["source"].to_numpy()
    return Opened(source, ids, targets, source_N, _parts(config, ids, targets, source_N, notes), rejects, notes)


def open_data(config: Config) -> Data:
    """All that a run has to know of its data, mean and std too. Raises InputError."""
    source, ids, targets, source_N, parts, rejects, notes = open_parts(config)
    if isinstance(source, ShardSource):
        moments = _stored_moments(source.index, config.data.channels)
    else:
        moments = _measured_moments(config, source, parts["train"], source_N)
    first, matching = _matching(moments, bool(source_N.any()))
    return Data(source, ids, targets, source_N, parts, *first, matching, rejects, notes)


def training_samples(config: Config, data: Data) -> Sampling:
    """Which images of the training part an epoch shows, with repeats."""
    rows = data.parts["train"]
    copies = expected_copies(config.sampling, data.targets_NK[rows])
    return Sampling(len(rows), config.run.seed, copies)


def check_rejects(config: Config, data: Data, rejects: list[Reject]) -> None:
    """Raises InputError if images were met that can not be used, and the configuration does not allow so many."""
    cfg = config.data
    met = list({reject.row: reject for reject in rejects}.values())  # an image is met in every epoch
    everything = len(data.image_ids) + len(data.rejects)
    check_ceiling(
        cfg.images or "", data.rejects + met, everything, on_error=cfg.on_error, max_rejected=cfg.max_rejected
    )


def _parts(
    config: Config, ids: pa.Array, targets: np.ndarray, source_N: np.ndarray, notes: list[str]
) -> dict[str, np.ndarray]:
    if config.data.split:
        parts = _listed_parts(config, ids, notes)
    else:
        shares = parse_parts(config.split.parts)
        if not 2 <= len(shares) <= 3:
            raise InputError(f"split.parts = {config.split.parts!r} - training needs train/val or train/val/test")
        groups = open_groups(config.data.groups, ids)
        numbers = assign_parts(
            ids,
            targets,
            shares,
            seed=config.split.seed,
            source_N=source_N,
            groups=groups,
            extra=config.split.extra,
        )
        parts = {part: np.flatnonzero(numbers == number) for number, part in enumerate(PARTS)}
        if left_out := int((numbers < 0).sum()):
            notes.append(f"{left_out:,} images of data.extra show what is in another part than train and are not used")
        for number, classes in classes_missing(targets, numbers, len(shares)).items():
            listed = ", ".join(f"{k} {CLASS_NAMES[k]}" for k in classes)
            notes.append(f"no image of {len(classes)} classes in the part {PARTS[number]}: {listed}")
    if config.data.sample_fraction < 1:
        parts["train"] = _fraction(config, targets, parts["train"], ids)
    return parts


def _listed_parts(config: Config, ids: pa.Array, notes: list[str]) -> dict[str, np.ndarray]:
    """The parts as the csv data.split has them; with data.fold, the folds but one against that one."""
    uri, fold = config.data.split, config.data.fold
    assert uri is not None
    assigned = read_split_table(uri, prefer="split" if fold is None else "fold").parts_of(ids)
    if absent := assigned.null_count:
        notes.append(f"{absent:,} images have no row in {uri} and are not used")
    words = pc.unique(assigned.drop_null()).to_pylist()
    if fold is not None:
        if str(fold) not in words:
            raise InputError(f"data.fold = {fold}: {uri} has no such fold - it has {', '.join(sorted(words)[:20])}")
        is_val = pc.equal(assigned, str(fold))
        assigned = pc.if_else(is_val, "val", "train")
    else:
        unknown = sorted(set(words) - set(PARTS))
        if unknown:
            advice = "say which fold validates by data.fold" if unknown[0].isdigit() else f"expected {', '.join(PARTS)}"
            raise InputError(f"{uri}: part {unknown[0]!r} - {advice}")
    parts = {
        part: np.flatnonzero(pc.equal(assigned, part).fill_null(False).to_numpy(zero_copy_only=False)) for part in PARTS
    }
    if fold is not None and not len(parts["train"]):
        raise InputError(f"{uri}: every image of the data is in fold {fold} - none is left to train on")
    if not len(parts["train"]) or not len(parts["val"]):
        raise InputError(f"{uri}: no image of the data is in its part 'train' or 'val'")
    return parts


def _fraction(config: Config, targets: np.ndarray, rows: np.ndarray, ids: pa.Array) -> np.ndarray:
    """A part of the training rows with the same class shares."""
    share = config.data.sample_fraction
    count = round(share * len(rows))
    if count == 0:
        raise InputError(f"data.sample_fraction = {share}: of {len(rows)} training images none is left - use more")
    if count == len(rows):
        return rows
    keys = ids.take(pa.array(rows))
    kept = split_rows(targets[rows], [count, len(rows) - count], seed=config.split.seed, keys=keys) == 0
    return np.asarray(rows[kept])


def _stored_moments(index: ShardIndex, channels: tuple[str, ...]) -> list[Moments]:
    """Mean and std of every source of the shards; a first source without images has those of all."""
    where = [index.channels.index(stain) for stain in channels]

    def of(mean: tuple[float, ...], std: tuple[float, ...]) -> Moments:
        return Moments(tuple(mean[k] for k in where), tuple(std[k] for k in where))

    whole = of(index.mean, index.std)
    return [of(entry.mean, entry.std) if entry.num_images else whole for entry in index.sources] or [whole]


def _measured_moments(config: Config, source: Source, rows: np.ndarray, source_N: np.ndarray) -> list[Moments]:
    """The same from some training images of every source."""
    order = np.random.default_rng([config.run.seed, 2]).permutation(rows)
    found: dict[int, Moments] = {}
    for number in range(int(source_N.max()) + 1):
        picked = order[source_N[order] == number][:STATISTICS_IMAGES]
        if not len(picked):
            continue
        _, pixels, rejects = source.read(np.sort(picked))
        if config.data.on_error == "fail":
            check_ceiling(config.data.images or "", rejects, len(rows), on_error="fail", max_rejected=0)
        if len(pixels):
            mean = pixels.mean(axis=(0, 2, 3), dtype=np.float64) / 255
            squares = np.square(pixels, dtype=np.uint16).mean(axis=(0, 2, 3), dtype=np.float64) / 255**2
            found[number] = Moments(tuple(mean.tolist()), tuple(np.sqrt(np.maximum(squares - mean**2, 0)).tolist()))
    if not found:
        raise InputError("none of the first training images can be read")
    whole = found[min(found)]
    return [found.get(number, whole) for number in range(int(source_N.max()) + 1)]


def stored_matching(index: ShardIndex, channels: tuple[str, ...], source_N: np.ndarray) -> Matching | None:
    """How the images of shards are brought to their first source; None where they are all of it."""
    return _matching(_stored_moments(index, channels), bool(source_N.any()))[1]


def _matching(moments: list[Moments], several: bool) -> tuple[Moments, Matching | None]:
    """Moments of the first source, and what brings the others to them."""
    first = moments[0]
    if not several:
        return first, None
    mean, std = np.array([m.mean for m in moments]), np.maximum(np.array([m.std for m in moments]), 1e-3)
    gain = std[0] / std
    return first, Matching(gain.astype(np.float32), (255 * (mean[0] - gain * mean)).astype(np.float32))
