"""Shipped models on one part of labelled data -> scores, per-class table, predictions. Before: predict."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hpa_ray.checkpoint.results import all_scores, floor_scores, scores_of, write_results
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
from hpa_ray.errors import InputError
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
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Score one model or several on manifest rows; writes summary_<part>.json, the per-class table and the predictions.

    `_tuned` scores use the thresholds stored with the models, which were tuned on their validation part; that part
    itself is scored with cross-fitted ones. Returns the summary. Raises InputError if images can not be used and
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
    targets = data.targets_NK[found.rows_N]
    first = ensemble.members[0].shipped.card
    ids = data.ids(found.rows_N)
    if part == "val":  # the stored thresholds were tuned on these very images
        scores = scores_of(found.probabilities_NK, targets, ids, data.rare_K)
    else:
        scores = all_scores(found.probabilities_NK, targets, found.chosen_NK, data.rare_K)
    summary = {
        "part": part,
        **scores,
        **floor_scores(targets),
        "num_images": len(targets),
        "num_rejected": len(found.rejects),
        "run": ensemble.name,
        "epoch": first.epoch if len(ensemble.members) == 1 else None,
        "num_models": len(ensemble.members),
        "inference": ensemble.cfg.model_dump(mode="json"),
    }
    thresholds_K, chosen_NK = ensemble.thresholds_K, found.chosen_NK
    write_results(folder, part, ids, found.probabilities_NK, targets, thresholds_K, ensemble.name, chosen_NK=chosen_NK)
    folder.write_json(f"summary_{part}.json", summary)
    return summary
