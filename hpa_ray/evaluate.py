"""Shipped models on one part of labelled data -> scores, per-class table, predictions. Before: predict."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hpa_ray.checkpoint.judge import THRESHOLDS_FILE, compare_rules, fit_of
from hpa_ray.checkpoint.results import all_scores, floor_scores, write_results
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.metrics import Bootstrap, Rule, bootstrap, cross_fit
from hpa_ray.predict import Ensemble, Given, infer
from hpa_ray.stream import Data, check_rejects


def evaluate(
    config: Config,
    ensemble: Ensemble,
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
    """Score one model or several on manifest rows; writes summary_<part>.json, the per-class table and the predictions.

    `_tuned` scores use the thresholds stored with the models, which were tuned on their validation part; that part
    itself is scored with cross-fitted ones by the rule of config.thresholds, and all rules are compared in
    thresholds.json. stored: the rule of the stored thresholds; None: that of config. store: with part `val`, gets the
    thresholds of the rule to write them into the model file; the tables then hold those. with_intervals: 95 % intervals
    of all scores, a second for 4,000 images. Returns the summary. Raises InputError if images can not be used and
    data.on_error does not allow it.
    """
    if part == "val" and ensemble.cfg.combine == "or":
        raise InputError(
            "inference.combine = or takes each model's own thresholds, which were tuned on the validation part - "
            "choose another evaluate.part, or combine by mean"
        )
    found = infer(
        Given(ensemble, data.source_N, data.matching),
        data.source,
        rows,
        batch_size=config.evaluate.batch_size,
        on_progress=on_progress,
        on_rejects=lambda rejects: check_rejects(config, data, rejects),
    )
    targets, ids = data.targets_NK[found.rows_N], data.ids(found.rows_N)
    first = ensemble.members[0].shipped.card
    probabilities = found.probabilities_NK.astype(np.float32).astype(np.float64)  # what is scored is what is written
    thresholds, rule = ensemble.thresholds_K, stored or config.thresholds.rule
    chosen_NK = found.chosen_NK if ensemble.cfg.combine == "or" else probabilities >= thresholds
    if part == "val":  # the stored thresholds were tuned on these very images
        fit = fit_of(config.thresholds, data.shares_K)
        tuned_NK = cross_fit(probabilities, targets, ids, fit=fit)
        if store is not None:
            thresholds, rule = fit(probabilities, targets), config.thresholds.rule
            store(thresholds)
            chosen_NK = probabilities >= thresholds
        rules = compare_rules(probabilities, targets, ids, config.thresholds, data.shares_K, stored=rule)
        folder.write_json(THRESHOLDS_FILE, rules)
        rule = config.thresholds.rule
    else:
        tuned_NK = chosen_NK
    sure: Bootstrap | None = None
    if with_intervals:
        sure = bootstrap(probabilities, targets, tuned_NK, data.rare_K, table_NK=chosen_NK)
    summary = {
        "part": part,
        **all_scores(probabilities, targets, tuned_NK, data.rare_K),
        **floor_scores(targets),
        **({} if sure is None else {"intervals": sure.scores}),
        "threshold_rule": rule,
        "num_images": len(targets),
        "num_rejected": len(found.rejects),
        "run": ensemble.name,
        "epoch": first.epoch if len(ensemble.members) == 1 else None,
        "num_models": len(ensemble.members),
        "inference": ensemble.cfg.model_dump(mode="json"),
    }
    ends = None if sure is None else sure.classes
    write_results(folder, part, ids, probabilities, targets, thresholds, ensemble.name, ends, chosen_NK=chosen_NK)
    folder.write_json(f"summary_{part}.json", summary)
    return summary
