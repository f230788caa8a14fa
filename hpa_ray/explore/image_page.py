"""Samples and intensities -> sections of the page, with their figures. Before: explore/pixels, folder. After: cli."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpa_ray import figures, page
from hpa_ray.channels import STAINS
from hpa_ray.explore.folder import FigureFolder
from hpa_ray.explore.pixels import PixelNumbers
from hpa_ray.figures.pixels import histogram_mean, histogram_std
from hpa_ray.figures.style import class_label
from hpa_ray.known import COMPETITION_TRAIN


def sample_sections(
    samples: Mapping[int | None, Sequence[int]],
    images: Mapping[int, np.ndarray],
    image_ids: Mapping[int, str],
    labels: Mapping[int, Sequence[int] | None],
    num_of_class: Sequence[int],
    *,
    channels: Sequence[str],
    folder: FigureFolder,
) -> list[page.Section]:
    """A montage per class (None: images whatever their class); rows that could not be read are left out."""
    blocks: list[page.Block] = [page.Text(f"Drawn at random. {figures.CONTRAST_RULE}")]
    for k, drawn in samples.items():
        rows = [row for row in drawn if row in images]
        if not rows:
            continue
        figure = figures.montage(
            np.stack([images[row] for row in rows]),
            [image_ids[row] for row in rows],
            [labels[row] for row in rows],
            channels=channels,
        )
        if k is None:
            blocks.append(folder.photo("samples", figure, f"{len(rows)} images."))
        else:
            caption = f"{len(rows)} of {num_of_class[k]:,} images."
            blocks.append(folder.photo(f"samples_class_{k:02d}", figure, caption, title=class_label(k)))
    return [page.Section("Samples", blocks)]


def pixel_sections(
    numbers: PixelNumbers, names: Sequence[str], *, channels: Sequence[str], image_size: int, folder: FigureFolder
) -> list[page.Section]:
    """Histograms of intensity per stain and source, beside the known means of the atlas."""
    by_source = {names[number]: counts for number, counts in sorted(numbers.counts_CL.items())}
    read = ", ".join(f"{numbers.num_images[number]:,} of {names[number]}" for number in sorted(numbers.num_images))
    chart = folder.chart(
        "intensities",
        figures.intensity_histograms(by_source, channels=channels),
        f"Pixels by intensity, of images drawn at random ({read}) at {image_size} px, the size given to models: making "
        f"images smaller keeps their mean and lowers their spread. Dashed: mean of the {COMPETITION_TRAIN.name} set.",
    )
    table = page.Table(
        [
            "source",
            "stain",
            page.Column("mean", ".4f"),
            page.Column("std", ".4f"),
            page.Column("mean of the competition", ".4f"),
            page.Column("ratio", ".2f"),
            page.Column("black (0)", ".2%"),
            page.Column("white (255)", ".3%"),
        ],
        [
            [row[name] for name in ("source", "stain", "mean", "std", "known", "ratio", "black", "white")]
            for row in intensity_rows(numbers, names, channels)
        ],
    )
    return [page.Section("Intensities", [chart, table])]


def intensity_rows(numbers: PixelNumbers, names: Sequence[str], channels: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for number, counts_CL in sorted(numbers.counts_CL.items()):
        for stain, counts_L in zip(channels, counts_CL, strict=True):
            mean, known = histogram_mean(counts_L), COMPETITION_TRAIN.mean[STAINS.index(stain)]
            rows.append(
                {
                    "source": names[number],
                    "stain": stain,
                    "mean": round(mean, 6),
                    "std": round(histogram_std(counts_L), 6),
                    "known": known,
                    "ratio": round(mean / known, 4),
                    "black": round(float(counts_L[0] / counts_L.sum()), 6),
                    "white": round(float(counts_L[255] / counts_L.sum()), 6),
                }
            )
    return rows
