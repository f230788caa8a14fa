"""A shipped model on one part of labelled data -> scores, per-class table, predictions. Before: predict."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hpa_ray.checkpoint.model_file import ShippedModel
from hpa_ray.checkpoint.results import all_scores, floor_scores, scores_of, write_results
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
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
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Score the model on manifest rows; writes summary_<part>.json, the per-class table and the predictions.

    `_tuned` scores use the thresholds stored with the model, which were tuned on its validation part; that part itself
    is scored with cross-fitted ones. Returns the summary. Raises InputError if images can not be used and
    data.on_error does not allow it.
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
    targets = data.targets_NK[found.rows_N]
    thresholds = np.asarray(shipped.card.thresholds)
    ids = data.ids(found.rows_N)
    if part == "val":  # the stored thresholds were tuned on these very images
        scores = scores_of(found.probabilities_NK, targets, ids, data.rare_K)
    else:
        scores = all_scores(found.probabilities_NK, targets, found.probabilities_NK >= thresholds, data.rare_K)
    summary = {
        "part": part,
        **scores,
        **floor_scores(targets),
        "num_images": len(targets),
        "num_rejected": len(found.rejects),
        "run": shipped.card.run,
        "epoch": shipped.card.epoch,
    }
    write_results(folder, part, ids, found.probabilities_NK, targets, thresholds, shipped.card.run)
    folder.write_json(f"summary_{part}.json", summary)
    return summary
