"""Scores, predictions and the per-class table of one part of the data. Before: metrics. After: the run folder."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.labels import CLASS_NAMES, NUM_CLASSES
from hpa_ray.metrics import (
    Fit,
    constant_floor,
    cross_fit,
    fill_empty,
    larger_is_better,
    per_class,
    score,
    score_predictions,
    tune_thresholds,
)
from hpa_ray.metrics.ranking import average_precision, rank
from hpa_ray.schema import PREDICTION_ROW
from hpa_ray.storage import write_parquet

ENDS = {
    "f1_low": ("f1", 0),
    "f1_high": ("f1", 1),
    "ap_low": ("average_precision", 0),
    "ap_high": ("average_precision", 1),
}
"""Last columns of the per-class table: a score and which end of its interval; empty while a run goes on."""


def scores_of(
    probabilities: np.ndarray, targets: np.ndarray, ids: Sequence[str], rare_K: np.ndarray, fit: Fit = tune_thresholds
) -> dict[str, Any]:
    """Scores at threshold 0.5 and, as `_tuned`, at thresholds that `fit` found on other images (cross-fitted)."""
    return all_scores(probabilities, targets, cross_fit(probabilities, targets, ids, fit=fit), rare_K)


def all_scores(
    probabilities: np.ndarray, targets: np.ndarray, tuned_NK: np.ndarray, rare_K: np.ndarray
) -> dict[str, Any]:
    """Scores at threshold 0.5 and, as `_tuned`, of the given (N, K) decisions; `_rare` are means over rare classes.

    rare_K: bool. Of them, those without an image here are left out; num_rare_classes says how many remain.
    macro_f1_filled: of the given decisions where the num_filled images without any have their most probable class, as
    `predict` gives it.
    """
    scores = score(probabilities, targets)
    scores |= {f"{name}_tuned": value for name, value in score_predictions(tuned_NK, targets).items()}
    filled = score_predictions(fill_empty(probabilities, tuned_NK), targets)
    scores |= {"macro_f1_filled": filled["macro_f1"], "num_filled": int((~np.asarray(tuned_NK).any(axis=1)).sum())}
    there_K = rare_K & targets.any(axis=0)
    scores |= {"macro_f1_rare": None, "macro_f1_rare_tuned": None, "map_rare": None}
    if there_K.any():
        rare = probabilities[:, there_K], targets[:, there_K]
        scores["macro_f1_rare"] = score_predictions(rare[0] >= 0.5, rare[1])["macro_f1"]
        scores["macro_f1_rare_tuned"] = score_predictions(tuned_NK[:, there_K], rare[1])["macro_f1"]
        scores["map_rare"] = float(average_precision(rank(*rare)).mean())
    return scores | {"num_rare_classes": int(there_K.sum())}


def selectable() -> dict[str, bool]:
    """Scores of the validation part by which an epoch can be chosen, and whether larger ones are better."""
    zeros = np.zeros((2, NUM_CLASSES))
    names = scores_of(zeros, zeros.astype(np.uint8), ["a", "b"], np.zeros(NUM_CLASSES, bool))
    return {"val_loss": False} | {name: larger_is_better(name) for name in names if not name.startswith("num_")}


def floor_scores(targets: np.ndarray) -> dict[str, float | None]:
    """What the best constant prediction reaches: any fixed label set for all images."""
    floor = constant_floor(targets)
    present = int(targets.any(axis=0).sum())
    return {
        "floor_macro_f1": floor.macro_f1,
        "floor_macro_f1_present": floor.macro_f1 * targets.shape[1] / present if present else None,
        "floor_micro_f1": floor.micro_f1,
    }


def write_results(
    folder: RunFolder,
    part: str,
    ids: Sequence[str],
    probabilities: np.ndarray,
    targets: np.ndarray,
    thresholds: np.ndarray,
    model: str,
    ends: Mapping[str, np.ndarray] | None = None,
    *,
    chosen_NK: np.ndarray | None = None,
) -> None:
    """predictions_<part>.parquet and the per-class table of a part.

    thresholds: (K,), or (N, K) where images have their own. ends: of metrics.Bootstrap.classes, (K, 2) by column of the
    table. chosen_NK: bool, where labels are not by thresholds.
    """
    chosen_NK = probabilities >= thresholds if chosen_NK is None else chosen_NK
    labels, truth = class_lists(chosen_NK), class_lists(targets)
    table = prediction_table(ids, probabilities, labels, model, thresholds=thresholds, truth=truth)
    write_parquet(folder.path(f"predictions_{part}.parquet"), table)
    columns = per_class(probabilities, targets, thresholds if thresholds.ndim == 1 else thresholds.mean(axis=0))
    decided = per_class(chosen_NK.astype(np.float64), targets)
    columns |= {name: decided[name] for name in ("predicted", "precision", "recall", "f1")}
    rows = [
        {"class": k, "name": name} | {column: _cell(values[k]) for column, values in columns.items()}
        for k, name in enumerate(CLASS_NAMES)
    ]
    _write_class_table(folder, part, rows, ends)


def add_intervals(folder: RunFolder, part: str, ends: Mapping[str, np.ndarray]) -> None:
    """Fill in what the per-class table of a part was written without."""
    rows = list(csv.DictReader(io.StringIO(folder.read_text(_class_table(part)))))
    _write_class_table(folder, part, rows, ends)


def _write_class_table(
    folder: RunFolder, part: str, rows: Sequence[dict[str, Any]], ends: Mapping[str, np.ndarray] | None
) -> None:
    text = io.StringIO()
    names = [*(name for name in rows[0] if name not in ENDS), *ENDS]
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    for k, row in enumerate(rows):
        of_class = {} if ends is None else {name: _cell(ends[column][k, end]) for name, (column, end) in ENDS.items()}
        writer.writerow(row | of_class)
    folder.write_text(_class_table(part), text.getvalue())


def _class_table(part: str) -> str:
    return "per_class.csv" if part == "val" else f"per_class_{part}.csv"


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{float(value):.6g}"


def prediction_table(
    ids: Sequence[str],
    probabilities: np.ndarray,
    labels: Sequence[Sequence[int]],
    model: str,
    *,
    thresholds: np.ndarray,
    truth: Sequence[Sequence[int]] | None = None,
) -> pa.Table:
    """Follows schema.PREDICTION_ROW; (N, K) probabilities, (K,) or (N, K) thresholds."""

    def rows(values_NK: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values_NK.astype(np.float32).ravel()), NUM_CLASSES)

    columns = {
        "image_id": list(ids),
        "probabilities": rows(probabilities),
        "labels": list(labels),
        "model": [model] * len(ids),
        "thresholds": rows(np.broadcast_to(thresholds, np.shape(probabilities))),
        "truth": [None] * len(ids) if truth is None else list(truth),
    }
    return pa.Table.from_pydict(columns, schema=PREDICTION_ROW)


def class_lists(chosen_NK: np.ndarray) -> list[list[int]]:
    """(N, K) of 0 and 1 -> class numbers, a list per image."""
    return [np.flatnonzero(row).tolist() for row in chosen_NK]
