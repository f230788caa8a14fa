"""A shipped model on one part of labelled data -> scores, per-class table, predictions. Before: predict."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hpa_ray.checkpoint.judge import THRESHOLDS_FILE, compare_rules, fit_of
from hpa_ray.checkpoint.model_file import ShippedModel
from hpa_ray.checkpoint.results import all_scores, floor_scores, write_results
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
from hpa_ray.metrics import Bootstrap, Rule, bootstrap, cross_fit
from hpa_ray.predict import infer
from hpa_ray.stream import Data, check_rejects


def evaluate(
    config: Config,
    shipped: ShippedModel,
    data: Data,
    rows: np.ndarray,
    *,
    part: str,
    folder: RunFolder,
    stored: Rule | None = None,
    store: Callable[[np.ndarray], None] | None = None,
    with_intervals: bool = True,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Score the model on manifest rows; writes summary_<part>.json, the per-class table and the predictions.

    `_tuned` scores use the thresholds stored with the model, which were tuned on its validation part; that part itself
    is scored with cross-fitted ones by the rule of config.thresholds, and all rules are compared in thresholds.json.
    stored: the rule of the stored thresholds; None: that of config. store: with part `val`, gets the thresholds of the
    rule to write them into the model file; the tables then hold those. with_intervals: 95 % intervals of all scores, a
    second for 4,000 images. Returns the summary. Raises InputError if images can not be used and data.on_error does not
    allow it.
    """
    found = infer(
        shipped,
        data.source,
        rows,
        batch_size=config.evaluate.batch_size,
        source_N=data.source_N,
        matching=data.matching if shipped.card.model.normalize == "source" else None,
        on_progress=on_progress,
        on_rejects=lambda rejects: check_rejects(config, data, rejects),
    )
    targets, ids = data.targets_NK[found.rows_N], data.ids(found.rows_N)
    probabilities = found.probabilities_NK.astype(np.float32).astype(np.float64)  # what is scored is what is written
    thresholds, rule = np.asarray(shipped.card.thresholds), stored or config.thresholds.rule
    if part == "val":  # the stored thresholds were tuned on these very images
        fit = fit_of(config.thresholds, data.shares_K)
        tuned_NK = cross_fit(probabilities, targets, ids, fit=fit)
        if store is not None:
            thresholds, rule = fit(probabilities, targets), config.thresholds.rule
            store(thresholds)
        rules = compare_rules(probabilities, targets, ids, config.thresholds, data.shares_K, stored=rule)
        folder.write_json(THRESHOLDS_FILE, rules)
        rule = config.thresholds.rule
    else:
        tuned_NK = probabilities >= thresholds
    sure: Bootstrap | None = None
    if with_intervals:
        sure = bootstrap(probabilities, targets, tuned_NK, data.rare_K, table_NK=probabilities >= thresholds)
    summary = {
        "part": part,
        **all_scores(probabilities, targets, tuned_NK, data.rare_K),
        **floor_scores(targets),
        **({} if sure is None else {"intervals": sure.scores}),
        "threshold_rule": rule,
        "num_images": len(targets),
        "num_rejected": len(found.rejects),
        "run": shipped.card.run,
        "epoch": shipped.card.epoch,
    }
    ends = None if sure is None else sure.classes
    write_results(folder, part, ids, probabilities, targets, thresholds, shipped.card.run, ends)
    folder.write_json(f"summary_{part}.json", summary)
    return summary
