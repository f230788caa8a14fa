"""The images of a run without their pixels: they open, how many there are of what in each part. Before: stream.

The pixels themselves are the business of `check`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hpa_ray.config import Config
from hpa_ray.doctor.findings import Finding, ok, refused, warn
from hpa_ray.errors import InputError
from hpa_ray.ingest import open_source
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import check_ceiling, classes_missing, multi_hot_column
from hpa_ray.schema import Reject, Source
from hpa_ray.shards import ShardSource
from hpa_ray.storage import is_local, join, open_random_access, read_bytes, shown
from hpa_ray.stream.data import parts_of

FIRST_BYTES = 2**16
SHOWN_CLASSES = 12


@dataclass(frozen=True)
class Opened:
    source: Source
    parts: dict[str, np.ndarray]  # name -> manifest rows
    targets_NK: np.ndarray
    rejects: list[Reject]
    notes: list[str]

    @property
    def num_local_shards(self) -> int:
        if not isinstance(self.source, ShardSource) or not is_local(self.source.folder):
            return 0
        return len(self.source.index.shards)


def open_parts(config: Config) -> Opened:
    """As `train` opens its data, but for mean and std. Raises InputError or OSError."""
    cfg = config.data
    if not (cfg.shards or (cfg.images and cfg.labels)):
        raise InputError("no data - give data.shards=FOLDER, or data.images=FOLDER with data.labels=CSV")
    source, table, _, rejects, notes = open_source(cfg)
    if table["labels"].null_count:
        raise InputError(f"data.shards = {cfg.shards}: holds images without labels - prepare with data.labels")
    num_images = table.num_rows + len(rejects)
    check_ceiling(cfg.images or "", rejects, num_images, on_error=cfg.on_error, max_rejected=cfg.max_rejected)
    if not table.num_rows:
        raise InputError(f"{cfg.shards or cfg.images}: none of its images can be used - `hpa-ray check` tells why")
    targets_NK = multi_hot_column(table["labels"].combine_chunks())
    ids: pa.Array = table["image_id"].combine_chunks()
    parts = parts_of(config, ids, targets_NK, table["source"].to_numpy(), notes)
    return Opened(source, parts, targets_NK, rejects, notes)


def check_data(config: Config) -> tuple[list[Finding], Opened | None]:
    began = time.perf_counter()
    try:
        opened = open_parts(config)
        seconds = time.perf_counter() - began
        took = _first_bytes(opened)
    except (InputError, OSError) as error:
        return refused("data", error), None
    where = shown(config.data.shards or config.data.images or "")
    what = f"{len(opened.targets_NK):,} images of {opened.source.image_size} px"
    if not is_local(config.data.shards or config.data.images or ""):  # of a disk, mostly the time of imports
        where += f", listed and opened in {seconds:.1f} s"
    findings = [ok("data", f"{what} at {where}, first bytes read in {took * 1000:,.0f} ms")]
    if opened.rejects:
        change = "`hpa-ray check` lists them"
        findings.append(warn("data", f"{len(opened.rejects):,} images can not be used and are left out", change))
    return [*findings, *_check_parts(opened)], opened


def _check_parts(opened: Opened) -> list[Finding]:
    sizes = {name: len(rows) for name, rows in opened.parts.items() if len(rows)}
    findings = [ok("parts", ", ".join(f"{name} {size:,}" for name, size in sizes.items()))]
    absent = np.flatnonzero(~opened.targets_NK.any(axis=0)).tolist()
    if absent:
        text = f"no image of {len(absent)} of the {NUM_CLASSES} classes: {_listed(absent)}"
        findings.append(warn("classes", text, "they count as 0 in macro F1; macro_f1_present leaves them out"))
    number_N = np.full(len(opened.targets_NK), -1, np.int16)
    for number, name in enumerate(sizes):
        number_N[opened.parts[name]] = number
    for number, classes in classes_missing(opened.targets_NK, number_N, len(sizes)).items():
        text = f"{list(sizes)[number]} has no image of {len(classes)} classes: {_listed(classes)}"
        findings.append(warn("classes", text, "give it more images by split.parts, or add some by data.extra"))
    return findings


def _first_bytes(opened: Opened) -> float:
    """Seconds to read the beginning of one file."""
    source = opened.source
    began = time.perf_counter()
    if isinstance(source, ShardSource):
        entry = source.index.shards[0]
        open_random_access(join(source.folder, entry.file)).read_at(min(FIRST_BYTES, entry.bytes), 0)
    else:
        files: list[list[str]] = source.files(opened.parts["train"][:1])[1]  # type: ignore[attr-defined]
        read_bytes(files[0][0])
    return time.perf_counter() - began


def _listed(classes: Sequence[int]) -> str:
    more = f" and {len(classes) - SHOWN_CLASSES} more" if len(classes) > SHOWN_CLASSES else ""
    return ", ".join(map(str, classes[:SHOWN_CLASSES])) + more
