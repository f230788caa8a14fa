"""What was found in one source of images: counts, problems, and how it lies beside what is known of HPA images."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hpa_ray.channels import STAINS
from hpa_ray.known import COMPETITION_TRAIN
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.manifest import file_of
from hpa_ray.schema import Reject

HPA_MEAN = dict(zip(STAINS, COMPETITION_TRAIN.mean, strict=True))
FAR = 2.0
"""A mean this many times above or below that of the competition's images is pointed out."""
SHOWN_FILES = 100
SHOWN_REJECTS = 1000


@dataclass
class Report:
    """Lines of `problems` are for the user; `rejects` are images that could not be used."""

    images: str | None
    labels: str | None
    num_images: int = 0
    num_files: int = 0
    num_bytes: int = 0
    num_usable: int = 0
    num_labelled: int | None = None
    num_unlabelled: int = 0
    num_absent: int = 0
    """Rows of a further source's table without any file."""
    num_without_class: int = 0
    decoded: bool = False
    sizes_px: Counter[str] = field(default_factory=Counter)
    formats: dict[str, Counter[str]] = field(default_factory=dict)
    """Stain -> how its files became 8-bit gray, and how many."""
    peaks: dict[str, int] = field(default_factory=dict)
    """Such a rule -> the highest value in any of its files."""
    mean: dict[str, float] = field(default_factory=dict)
    std: dict[str, float] = field(default_factory=dict)
    num_copies: int = 0
    """Images whose files are byte for byte those of another Id."""
    class_counts: list[int] | None = None
    labels_per_image: dict[int, int] = field(default_factory=dict)
    other_files: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    table_problems: list[str] = field(default_factory=list)

    @property
    def num_problems(self) -> int:
        return len(self.rejects) + len(self.table_problems) + self.num_unlabelled + len(self.other_files)

    def files_by_reason(self) -> dict[str, list[str]]:
        """Why images can not be used -> the files, the most frequent reason last: a screen is read from its end."""
        found: dict[str, list[str]] = {}
        for reject in self.rejects:
            found.setdefault(reject.reason, []).append(file_of(self.images or "", reject))
        return dict(sorted(found.items(), key=lambda item: len(item[1])))

    def warnings(self) -> list[str]:
        """What may well be right, and is worth a look: these do not count as problems."""
        lines = []
        for rule, peak in self.peaks.items():
            if rule.startswith("16-bit") and peak <= 32767:
                lines.append(
                    f"{rule}: no file has a value above {peak:,} - if the camera has fewer than 16 bits, say so by "
                    f"data.white_level={next(level for level in (4095, 16383, 32767) if peak <= level)}"
                )
        for stain, mean in self.mean.items():
            ratio = mean / HPA_MEAN[stain]
            if not 1 / FAR <= ratio <= FAR:
                lines.append(
                    f"{stain}: mean {mean:.4f}, {ratio:.2f} times that of the competition's images "
                    f"({HPA_MEAN[stain]:.4f}) - another exposure, another scaling, or not whole fields of view"
                )
        if self.num_copies:
            lines.append(
                f"{self.num_copies:,} images are byte for byte copies of another one - `hpa-ray duplicates` finds "
                "these and near ones, so that no split separates them"
            )
        if self.num_without_class:
            lines.append(f"{self.num_without_class:,} rows of {self.labels} have an empty Target: images of no class")
        return lines

    def class_rows(self) -> list[tuple[int, str, int, float]]:
        """Class, name, images, share of the labelled images."""
        total = max(self.num_labelled or 0, 1)
        return [(k, CLASS_NAMES[k], n, n / total) for k, n in enumerate(self.class_counts or [])]

    def as_json(self) -> dict[str, Any]:
        plain = (
            *("images", "labels", "num_images", "num_files", "num_bytes", "num_usable", "num_labelled"),
            *("num_unlabelled", "num_absent", "num_without_class", "decoded", "peaks", "mean", "std", "num_copies"),
        )
        return {name: getattr(self, name) for name in plain} | {
            "num_problems": self.num_problems,
            "sizes_px": dict(self.sizes_px),
            "formats": {stain: dict(rules) for stain, rules in self.formats.items()},
            "mean_over_competition": {stain: round(mean / HPA_MEAN[stain], 3) for stain, mean in self.mean.items()},
            "labels_per_image": {str(count): images for count, images in sorted(self.labels_per_image.items())},
            "classes": [
                {"class": k, "name": name, "images": images, "share": round(share, 6)}
                for k, name, images, share in self.class_rows()
            ],
            "warnings": self.warnings(),
            "table_problems": self.table_problems,
            "other_files": self.other_files[:SHOWN_FILES],
            "rejected": [
                {"image_id": r.image_id, "file": r.file, "reason": r.reason} for r in self.rejects[:SHOWN_REJECTS]
            ],
        }
