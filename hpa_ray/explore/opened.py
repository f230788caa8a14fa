"""The data that the configuration names, whatever its form. Before: manifest, ingest, shards. After: cli."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.explore.pixels import SAMPLE_PX
from hpa_ray.ingest import ImageSource, OpenedSource, open_source
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import multi_hot_column, problem_lines, read_label_table
from hpa_ray.schema import Reject, Source
from hpa_ray.storage import shown


@dataclass(frozen=True)
class Opened:
    """The data of the configuration: a row per image, and where pixels come from, if there are any."""

    where: str
    image_ids: pa.Array
    labels: pa.ListArray  # null where not known
    source_N: np.ndarray
    names: list[str]  # of the sources
    pixels: Source | None  # as models get them
    samples: Source | None  # as they are shown
    problems: list[str]
    rejects: list[Reject]
    notes: list[str]

    @functools.cached_property
    def known_N(self) -> np.ndarray:
        """Which images have labels."""
        return np.asarray(self.labels.is_valid())

    @functools.cached_property
    def targets_NK(self) -> np.ndarray:
        """Multi-hot labels, zeros where they are not known."""
        targets = np.zeros((len(self.labels), NUM_CLASSES), np.uint8)
        targets[self.known_N] = multi_hot_column(self.labels.drop_null())
        return targets

    @property
    def has_images(self) -> bool:
        return self.pixels is not None


def open_everything(config: Config) -> Opened:
    """Shards, or images with or without labels, or a label table alone. Raises InputError."""
    cfg = config.data
    if cfg.shards or cfg.images:
        return _opened(cfg.shards, open_source(cfg))
    assert cfg.labels is not None
    labels = read_label_table(cfg.labels)
    if not len(labels.image_ids):
        raise InputError(*labels.problems)
    zeros = np.zeros(len(labels.image_ids), np.int8)
    name = cfg.labels.rpartition("/")[2]
    return Opened(cfg.labels, labels.image_ids, labels.labels, zeros, [name], None, None, labels.problems, [], [])


def source_names(uris: Sequence[str]) -> list[str]:
    """The last word of each, with the one before it where that is needed to tell them apart, or else a number."""
    for words in (1, 2):
        names = ["/".join(shown(uri).rstrip("/").split("/")[-words:]) for uri in uris]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]


def _opened(shards: str | None, opened: OpenedSource) -> Opened:
    pixels, table, names, rejects, notes = opened
    where = shards or " + ".join(names)
    if not table.num_rows:
        reasons = problem_lines(where, rejects)
        raise InputError(*reasons, f"{where}: none of its images can be used - `hpa-ray check` tells why")
    samples = replace(pixels, image_size=SAMPLE_PX) if isinstance(pixels, ImageSource) else pixels
    ids, labels = table["image_id"].combine_chunks(), table["labels"].combine_chunks()
    source_N = table["source"].to_numpy()
    return Opened(where, ids, labels, source_N, source_names(names), pixels, samples, [], rejects, notes)
