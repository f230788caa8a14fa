"""A folder of a cross-validation -> its page: the folds, then what a run's page has. Before: run_page. After: page."""

from typing import NamedTuple

import numpy as np

from hpa_ray.page import Block, Column, Section, Table, Text
from hpa_ray.page.sections import Cell
from hpa_ray.report.compare_page import curves_block
from hpa_ray.report.contents import RunFiles
from hpa_ray.report.files import read_run
from hpa_ray.report.run_page import run_sections, subtitle, with_gallery
from hpa_ray.storage import exists, join

SCORES = (
    ("macro F1", "macro_f1_tuned"),
    ("micro F1", "micro_f1_tuned"),
    ("mAP", "map"),
    ("exact match", "exact_match_tuned"),
)


class Folds(NamedTuple):
    whole: RunFiles
    folds: list[RunFiles]


def read_crossval(uri: str) -> Folds:
    """The folds that there are, however many were planned. Raises InputError for a file that can not be used."""
    folds: list[RunFiles] = []
    while exists(join(uri, "folds", str(len(folds)), "summary.json")):
        folds.append(read_run(join(uri, "folds", str(len(folds)))))
    return Folds(read_run(uri), folds)


def crossval_page(found: Folds) -> str:
    sections = run_sections(found.whole)
    names = [f"fold {number + 1}" for number in range(len(found.folds))]
    sections[1] = Section("Folds", [*_table(found, names), curves_block(found.folds, names)])
    title = f"Cross-validation {found.whole.name}"
    return with_gallery(found.whole, sections, title=title, subtitle=subtitle(found.whole))


def _table(found: Folds, names: list[str]) -> list[Block]:
    if not found.folds:
        return [Text("No fold has a summary.json yet.")]
    rows: list[list[Cell]] = []
    for run, name in zip(found.folds, names, strict=True):
        images, best = run.score("num_images", "val"), run.score("best_epoch", "val")
        rows.append(
            [
                name,
                None if images is None else int(images),
                None if best is None else int(best),
                *(run.score(key, "val") for _, key in SCORES),
            ]
        )
    for title, reduce in (("mean", np.mean), ("standard deviation", _spread)):
        columns = [[value for run in found.folds if (value := run.score(key, "val")) is not None] for _, key in SCORES]
        rows.append([title, None, None, *(float(reduce(column)) if column else None for column in columns)])
    text = """Each fold validates once, on images its model has not seen; the scores above are of all images together,
    each by the model that has not seen it. The spread between folds is that of the images and of the training."""
    heads = [Column(title, ".3f") for title, _ in SCORES]
    caption = "Scores of each fold on its own images, thresholds tuned on one half and used on the other"
    return [Text(text), Table(["fold", Column("images", ","), "best epoch", *heads], rows, caption=caption)]


def _spread(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
