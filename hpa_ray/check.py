"""Images folder + label table -> what is there, what is wrong with it, and what preparing it would cost.

Before: manifest, ingest/decode. After: the user, who mends the data or chooses to leave images out.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpa_ray.channels import STAINS
from hpa_ray.ingest.decode import DecodeError, decode_plane
from hpa_ray.ingest.stack import check_shapes
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.manifest import Folder, LabelTable, build_manifest
from hpa_ray.schema import Reject
from hpa_ray.storage import join, read_bytes


@dataclass
class Report:
    """What `check` found. Lines of `problems` are for the user; `rejects` are images that could not be used."""

    num_labelled: int | None
    num_images: int
    num_files: int
    num_bytes: int
    num_usable: int = 0
    num_unlabelled: int = 0
    other_files: list[str] = field(default_factory=list)
    sizes_px: Counter[str] = field(default_factory=Counter)
    decoded: bool = False
    mean: dict[str, float] = field(default_factory=dict)
    class_counts: list[int] | None = None
    labels_per_image: dict[int, int] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    table_problems: list[str] = field(default_factory=list)

    @property
    def num_problems(self) -> int:
        return len(self.rejects) + len(self.table_problems) + self.num_unlabelled + len(self.other_files)

    def as_json(self) -> dict[str, Any]:
        names = (
            "num_labelled",
            "num_images",
            "num_files",
            "num_bytes",
            "num_usable",
            "num_unlabelled",
            "decoded",
            "mean",
        )
        return {name: getattr(self, name) for name in names} | {
            "num_problems": self.num_problems,
            "sizes_px": dict(self.sizes_px),
            "labels_per_image": {str(count): images for count, images in sorted(self.labels_per_image.items())},
            "classes": [
                {"class": k, "name": name, "images": count}
                for k, (name, count) in enumerate(zip(CLASS_NAMES, self.class_counts or [], strict=False))
            ],
            "table_problems": self.table_problems,
            "other_files": self.other_files[:100],
            "rejected": [{"image_id": r.image_id, "file": r.file, "reason": r.reason} for r in self.rejects[:1000]],
        }


def check_data(
    uri: str,
    folder: Folder,
    labels: LabelTable | None,
    *,
    channels: Sequence[str] = STAINS,
    decode: bool = True,
    num_workers: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Look at every name and label and, with decode, every byte of the images that are labelled."""
    manifest = build_manifest(folder, labels, channels)
    report = Report(
        num_labelled=None if labels is None else len(labels.image_ids),
        num_images=len(folder.stains),
        num_files=len(folder.sizes),
        num_bytes=sum(folder.sizes.values()),
        num_unlabelled=manifest.num_unlabelled,
        other_files=folder.other_files,
        decoded=decode,
        rejects=list(manifest.rejects),
        table_problems=[] if labels is None else list(labels.problems),
    )
    if labels is not None:
        counts = np.bincount(labels.labels.flatten().to_numpy(), minlength=len(CLASS_NAMES))
        report.class_counts = counts.tolist()
        lengths = labels.labels.value_lengths().to_pylist()
        report.labels_per_image = dict(Counter(lengths))
    bad: set[str] = set()
    if decode:
        bad = _decode_all(uri, manifest.table.to_pylist(), channels, num_workers, report, on_progress)
    report.num_usable = manifest.table.num_rows - len(bad)
    return report


def _decode_all(
    uri: str,
    rows: list[dict[str, Any]],
    channels: Sequence[str],
    num_workers: int | None,
    report: Report,
    on_progress: Callable[[int], None],
) -> set[str]:
    sums = np.zeros(len(channels))
    bad: set[str] = set()

    def look(row: dict[str, Any]) -> tuple[str, set[tuple[int, ...]], list[float], Reject | None]:
        means: list[float] = []
        shapes: list[tuple[int, ...]] = []
        files = [f"{row['image_id']}_{stain}.{row['extension']}" for stain in channels]
        file = files[0]
        try:
            for file in files:
                plane = decode_plane(read_bytes(join(uri, file)))
                shapes.append(plane.shape)
                means.append(float(plane.mean()) / 255)
            file = files[0]
            check_shapes(shapes)
        except DecodeError as error:
            return row["image_id"], set(shapes), [], Reject(-1, row["image_id"], file, str(error))
        except OSError as error:
            reason = f"cannot be read ({error.strerror or error})"
            return row["image_id"], set(shapes), [], Reject(-1, row["image_id"], file, reason)
        return row["image_id"], set(shapes), means, None

    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        for done, (image_id, shapes, means, reject) in enumerate(pool.map(look, rows), start=1):
            if reject is not None:
                report.rejects.append(reject)
                bad.add(image_id)
            else:
                sums += means
            report.sizes_px.update(f"{width} x {height}" for height, width in shapes)
            on_progress(done)
    if len(rows) > len(bad):
        report.mean = dict(zip(channels, (sums / (len(rows) - len(bad))).round(5).tolist(), strict=True))
    return bad
