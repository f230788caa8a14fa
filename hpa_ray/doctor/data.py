"""The images of a run without their pixels: they open, how many there are of what in each part. Before: stream.

The pixels themselves are the business of `check`.
"""

import time
from collections.abc import Sequence

import numpy as np

from hpa_ray.config import Config
from hpa_ray.doctor.findings import Finding, ok, refused, warn
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import classes_missing
from hpa_ray.shards import ShardSource
from hpa_ray.storage import is_local, join, open_random_access, read_bytes, shown
from hpa_ray.stream.data import Opened, open_parts

FIRST_BYTES = 2**16
SHOWN_CLASSES = 12


def num_local_shards(opened: Opened) -> int:
    """Files that stay mapped while a run reads them."""
    source = opened.source
    return len(source.index.shards) if isinstance(source, ShardSource) and is_local(source.folder) else 0


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
