"""What threshold rules are worth on a part, and how sure its scores are. Before: results. After: train, evaluate."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hpa_ray.checkpoint.results import add_intervals
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import ThresholdsConfig
from hpa_ray.labels import multi_hot
from hpa_ray.metrics import RULES, Bootstrap, Fit, Rule, bootstrap, cross_fit, fit_thresholds, score_predictions
from hpa_ray.metrics.intervals import count_intervals
from hpa_ray.storage import read_bytes, read_parquet

THRESHOLDS_FILE = "thresholds.json"


class Judged(NamedTuple):
    """A predictions file whose truth is known."""

    ids: list[str]
    probabilities_NK: np.ndarray  # float64
    targets_NK: np.ndarray  # uint8
    decisions_NK: np.ndarray  # uint8, at the stored thresholds


def fit_of(cfg: ThresholdsConfig, shares_K: np.ndarray, rule: Rule | None = None) -> Fit:
    """How thresholds are found by the rule of a configuration, or by another one with its other settings.

    shares_K: part of the training images that has each class.
    """
    return partial(
        fit_thresholds, rule or cfg.rule, value=cfg.value, shrinkage=cfg.shrinkage, shares_K=np.asarray(shares_K)
    )


def compare_rules(
    probabilities: np.ndarray,
    targets: np.ndarray,
    ids: Sequence[str],
    cfg: ThresholdsConfig,
    shares_K: np.ndarray,
    *,
    stored: Rule,
) -> dict[str, Any]:
    """The content of thresholds.json: of every rule what it is worth on images its thresholds have not seen.

    macro_f1, macro_f1_low, macro_f1_high (95 % interval), micro_f1: cross-fitted. thresholds: of all images, as they
    would be stored. "stored": the rule of the model file.
    """
    found: dict[str, Any] = {}
    for rule in RULES:
        fit = fit_of(cfg, shares_K, rule)
        decisions_NK = cross_fit(probabilities, targets, ids, fit=fit)
        scores = score_predictions(decisions_NK, targets)
        low, high = count_intervals(decisions_NK, targets)["macro_f1"]
        found[rule] = {
            "macro_f1": scores["macro_f1"],
            "macro_f1_low": low,
            "macro_f1_high": high,
            "micro_f1": scores["micro_f1"],
            "thresholds": fit(probabilities, targets).tolist(),
        }
    return {**found, "stored": stored}


def read_judged(folder: RunFolder, part: str) -> Judged:
    """predictions_<part>.parquet of a run folder, as it was written."""
    table = read_parquet(read_bytes(folder.path(f"predictions_{part}.parquet")))
    flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Judged(
        table["image_id"].to_pylist(),
        flat.reshape(table.num_rows, -1).astype(np.float64),
        multi_hot(table["truth"].to_pylist()),
        multi_hot(table["labels"].to_pylist()),
    )


def close_run(folder: RunFolder, cfg: ThresholdsConfig, *, rare_K: np.ndarray, shares_K: np.ndarray) -> Bootstrap:
    """Where a run ends: intervals of its validation part into the per-class table, and thresholds.json.

    Of the best epoch, from its stored predictions. Returns the intervals.
    """
    judged = read_judged(folder, "val")
    probabilities, targets = judged.probabilities_NK, judged.targets_NK
    tuned_NK = cross_fit(probabilities, targets, judged.ids, fit=fit_of(cfg, shares_K))
    found = bootstrap(probabilities, targets, tuned_NK, rare_K, table_NK=judged.decisions_NK)
    add_intervals(folder, "val", found.classes)
    rules = compare_rules(probabilities, targets, judged.ids, cfg, shares_K, stored=cfg.rule)
    folder.write_json(THRESHOLDS_FILE, rules)
    return found
