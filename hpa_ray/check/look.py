"""One source of images and labels -> a report: every name, every label and, if asked, every byte of the images."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.check.report import Report
from hpa_ray.ingest import ImageSource
from hpa_ray.ingest.decode import DecodeError, Plane, decode_plane
from hpa_ray.ingest.stack import check_shapes
from hpa_ray.ingest.tasks import run_tasks
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import ImageSet, LabelTable, build_manifest, list_folder
from hpa_ray.schema import Reject
from hpa_ray.storage import read_many

IMAGES_PER_TASK = 16
BESIDE_IMAGES = ("labels.csv", "fetch.json", "rejected.parquet")
"""What `fetch` writes into the folder of its images."""


def check_source(
    place: ImageSet,
    labels: LabelTable | None,
    *,
    number: int,
    channels: Sequence[str],
    white_level: int = 65535,
    decode: bool = True,
    num_workers: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Report, pa.Table | None]:
    """The report on source `number` (0: data.images) and its usable rows before decoding (schema.MANIFEST_ROW).

    place.images may be empty: then the labels alone are looked at. num_workers: 0 decodes on threads of this process,
    otherwise that many Ray Data tasks. Raises InputError if a folder or table can not be read at all.
    """
    report = Report(place.images or None, place.labels)
    if labels is not None:
        _look_at_labels(report, labels)
    if not place.images:
        return report, None
    folder = list_folder(place.images, key="data.extra" if number else "data.images")
    table, rejects, unlabelled = build_manifest(folder, labels, channels, source=number)
    report.num_images, report.num_files, report.num_bytes = folder.num_images, folder.num_files, folder.num_bytes
    report.num_unlabelled, report.rejects = len(unlabelled), list(rejects)
    report.other_files = [name for name in folder.other_files if name not in BESIDE_IMAGES]
    if number and labels is not None:
        report.num_absent = len(labels.image_ids) - table.num_rows - len(rejects)
    report.num_usable = table.num_rows
    if decode:
        folders = ("",) * number + (place.images,)
        source = ImageSource(folders, table, tuple(channels), 8, white_level)
        report.num_usable -= _decode_all(report, source, num_workers, on_progress)
    return report, table


def _look_at_labels(report: Report, labels: LabelTable) -> None:
    report.num_labelled = len(labels.image_ids)
    report.table_problems = list(labels.problems)
    report.class_counts = np.bincount(labels.labels.flatten().to_numpy(), minlength=NUM_CLASSES).tolist()
    lengths = np.bincount(labels.labels.value_lengths().to_numpy(zero_copy_only=False))
    report.labels_per_image = {count: int(images) for count, images in enumerate(lengths) if images}
    report.num_without_class = labels.num_empty


def _decode_all(report: Report, source: ImageSource, num_workers: int, on_progress: Callable[[int, int], None]) -> int:
    """Fill in what the pixels tell; returns the number of images that can not be used."""
    report.decoded = True
    report.formats = {stain: Counter() for stain in source.channels}
    total, done, good = source.table.num_rows, 0, 0
    sums = np.zeros((2, len(source.channels)))
    digests: Counter[str] = Counter()
    rejects: list[Reject] = []
    for found in run_tasks(_Look(source), range(-(-total // IMAGES_PER_TASK)), num_workers=num_workers):
        report.sizes_px.update(found["sizes"])
        for stain, rules in found["rules"].items():
            report.formats[stain].update(rules)
        for rule, peak in found["peaks"].items():
            report.peaks[rule] = max(peak, report.peaks.get(rule, 0))
        sums += found["sums"]
        digests.update(found["digests"])
        rejects += [Reject(*reject) for reject in found["rejects"]]
        good += len(found["digests"])
        done += found["num_images"]
        on_progress(done, total)
    report.rejects += sorted(rejects)
    report.num_copies = sum(count - 1 for count in digests.values())
    if good:
        mean = sums[0] / good
        std = np.sqrt(np.maximum(sums[1] / good - mean**2, 0))
        report.mean = dict(zip(source.channels, mean.round(5).tolist(), strict=True))
        report.std = dict(zip(source.channels, std.round(5).tolist(), strict=True))
    return len(rejects)


class _Look:
    """Decode some images and add up what is found; every image weighs the same, whatever its size."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __call__(self, number: int) -> dict[str, Any]:
        channels = self.source.channels
        start = number * IMAGES_PER_TASK
        rows = np.arange(start, min(start + IMAGES_PER_TASK, self.source.table.num_rows))
        ids, files = self.source.files(rows)
        contents = read_many([uri for uris in files for uri in uris])
        sizes: Counter[str] = Counter()
        rules: dict[str, Counter[str]] = {stain: Counter() for stain in channels}
        peaks: dict[str, int] = {}
        sums = np.zeros((2, len(channels)))
        digests, rejects = [], []
        for row, image_id, uris in zip(rows.tolist(), ids, files, strict=True):
            planes: list[Plane] = []
            digest = hashlib.blake2b(digest_size=12)
            bad: tuple[str, str] | None = None
            for uri, stain in zip(uris, channels, strict=True):
                content = next(contents)
                if bad is not None:
                    continue
                try:
                    if isinstance(content, OSError):
                        raise DecodeError(f"cannot be read ({content.strerror or content})")
                    planes.append(decode_plane(content, stain, white_level=self.source.white_level))
                    digest.update(content)
                except DecodeError as error:
                    bad = (uri, str(error))
            if bad is None:
                try:
                    check_shapes([plane.pixels.shape for plane in planes])
                except DecodeError as error:
                    bad = (uris[0], str(error))
            sizes.update({f"{plane.pixels.shape[1]} x {plane.pixels.shape[0]}" for plane in planes})
            for stain, plane in zip(channels, planes, strict=False):
                rules[stain][plane.rule] += 1
                peaks[plane.rule] = max(plane.peak, peaks.get(plane.rule, 0))
            if bad is not None:
                rejects.append(Reject(-1, image_id, self.source.told(row, bad[0]), bad[1]))
                continue
            digests.append(digest.hexdigest())
            means = [float(plane.pixels.mean()) / 255 for plane in planes]
            stds = [float(plane.pixels.std()) / 255 for plane in planes]
            sums += [means, [std**2 + mean**2 for mean, std in zip(means, stds, strict=True)]]
        return {
            "num_images": len(rows),
            "sizes": sizes,
            "rules": rules,
            "peaks": peaks,
            "sums": sums.tolist(),
            "digests": digests,
            "rejects": rejects,
        }
