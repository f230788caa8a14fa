"""`crossval`: every image is judged once, by a model that has not seen it; the models together are an ensemble."""

import time
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.checkpoint.fold_folder import FOLDS, FOLDS_FILE
from hpa_ray.checkpoint.judge import THRESHOLDS_FILE, compare_rules, fit_of, read_judged
from hpa_ray.checkpoint.results import all_scores, floor_scores, write_results
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli import train_verb
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, resolve, with_atlas_shards
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.manifest import LEFT_OUT, assign_parts, open_groups, write_split_table
from hpa_ray.metrics import bootstrap
from hpa_ray.progress import console
from hpa_ray.storage import exists, read_bytes
from hpa_ray.stream import open_data
from hpa_ray.stream.data import Opened, open_parts, rare_classes

SHOWN = ("macro_f1_tuned", "macro_f1_present_tuned", "macro_f1", "micro_f1_tuned", "map")
TITLES = ("macro F1", "of present", "at 0.5", "micro F1", "mAP")
KEPT = (*SHOWN, "micro_f1", "auroc", "best_epoch", "num_images", "num_train_images")
"""What the summary says of each fold."""

# N images of all folds, K classes


def crossval(invocation: Invocation) -> dict[str, Any]:
    began = time.monotonic()
    config = resolve(invocation)
    if config.run.resume and not config.run.name:
        raise InputError("run.resume=true needs run.name=NAME, the cross-validation to go on with")
    if config.data.fold is not None:
        raise InputError("data.fold is for one training - crossval deals the images out to crossval.folds itself")
    if config.train.stop_epoch is not None:
        raise InputError("train.stop_epoch leaves folds unfinished - leave it out, a crossval goes on by run.resume")
    config, folder = train_verb.named(config, "crossval")
    train_verb.check_settings(config)
    train_verb.claim(folder, config, dry=True, more=("crossval",))
    if not has_data(config):
        config = with_atlas_shards(config)
    all_images = config.data.model_copy(update={"sample_fraction": 1.0})  # each fold takes its share of them itself
    opened = open_parts(config.model_copy(update={"data": all_images}))
    train_verb.claim(folder, config, more=("crossval",))
    folder.write_json("environment.json", train_verb.environment())
    fold_N = _dealt(config, folder, opened)
    num_folds = config.crossval.folds
    dealt = {f"fold {fold + 1}": np.flatnonzero(fold_N == fold) for fold in range(num_folds)}
    facts = train_verb.data_facts(dealt, opened.targets_NK, opened.source.image_size, opened.notes)
    folder.write_json("data.json", facts)
    finished = [_summary(RunFolder(folder.path(FOLDS, str(fold)))) for fold in range(num_folds)]
    for fold in range(num_folds):
        if finished[fold] is not None:
            console.say(f"fold {fold + 1} of {num_folds} was finished before")
            continue
        console.say(f"fold {fold + 1} of {num_folds}")
        finished[fold] = _train_fold(config, folder, fold)
    summaries = [summary for summary in finished if summary is not None]
    summary, rules = _gathered(config, folder, opened, fold_N, summaries)
    folder.write_json("summary.json", summary)
    folder.write_json(THRESHOLDS_FILE, rules)  # from here on it can predict
    if config.data.split:
        of_test = train_verb.test_scores(config, open_data(config), folder)
        summary |= of_test | {"intervals": summary["intervals"] | of_test.get("intervals", {})}
    summary["wall_s"] = round(time.monotonic() - began, 1)
    folder.write_json("summary.json", summary)
    page = train_verb.write_report(folder) if config.track.report else ""
    _say(summary, folder, page)
    return summary


def _dealt(config: Config, folder: RunFolder, opened: Opened) -> np.ndarray:
    """Writes folds.csv -> (N,) number of each image's fold; images of a test part, and those left out, are in none.

    Images of further sources train in every fold (split.extra=train), as with `split`.
    """
    num_folds = config.crossval.folds
    used_N = np.ones(len(opened.image_ids), bool)
    if config.data.split:
        used_N[:] = False
        for part in ("train", "val"):
            used_N[opened.parts[part]] = True
    ids = opened.image_ids.filter(pa.array(used_N))
    fold_N = np.full(len(used_N), LEFT_OUT, np.int64)
    fold_N[used_N] = assign_parts(
        ids,
        opened.targets_NK[used_N],
        [1 / num_folds] * num_folds,
        seed=config.split.seed,
        source_N=opened.source_N[used_N],
        groups=open_groups(config.data.groups, ids),
        extra=config.split.extra,
        train=num_folds,
    )
    words = pa.array([*map(str, range(num_folds)), "train"])
    kept = fold_N != LEFT_OUT
    table = opened.image_ids.filter(pa.array(kept)), words.take(pa.array(fold_N[kept]))
    before = read_bytes(folder.path(FOLDS_FILE)) if exists(folder.path(FOLDS_FILE)) else None
    write_split_table(folder.path(FOLDS_FILE), *table, column="fold")
    if before is not None and before != read_bytes(folder.path(FOLDS_FILE)):
        raise InputError(f"{folder.uri}: its data has other images or labels now - choose another run.name")
    return fold_N


def _train_fold(config: Config, folder: RunFolder, fold: int) -> dict[str, Any]:
    """As `train` does, with what the fold validates left out of the training."""
    run = {"name": str(fold), "storage": folder.path(FOLDS), "resume": True}
    data = {"split": folder.path(FOLDS_FILE), "fold": fold, "groups": None}  # the table keeps groups together
    track = {"analysis": False, "report": False}  # the page is of all folds together
    own = config.model_copy(
        update={
            "run": config.run.model_copy(update=run),
            "data": config.data.model_copy(update=data),
            "track": config.track.model_copy(update=track),
        }
    )
    return train_verb.train_run(own, open_data(own), RunFolder(folder.path(FOLDS, str(fold))))


def _summary(folder: RunFolder) -> dict[str, Any] | None:
    """Of a finished fold."""
    try:
        summary: dict[str, Any] = folder.read_json("summary.json")
    except (FileNotFoundError, ValueError):
        return None
    return summary if summary.get("status") == "done" and "run" in summary else None


def _gathered(
    config: Config, folder: RunFolder, opened: Opened, fold_N: np.ndarray, summaries: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of all images, each by the model that has not seen it, and what thresholds.json holds; writes predictions.

    Tuned thresholds are cross-fitted: those for a fold are tuned on what is said of the images of the others.
    """
    num_folds = config.crossval.folds
    rows = np.flatnonzero((fold_N >= 0) & (fold_N < num_folds))
    said: dict[str, np.ndarray] = {}
    for fold in range(num_folds):
        judged = read_judged(RunFolder(folder.path(FOLDS, str(fold))), "val")
        said |= dict(zip(judged.ids, judged.probabilities_NK, strict=True))
    names = opened.image_ids.take(pa.array(rows)).to_pylist()
    seen = np.array([name in said for name in names])  # all but those that could not be read
    rows, names = rows[seen], [name for name in names if name in said]
    probability_NK, target_NK = np.stack([said[name] for name in names]), opened.targets_NK[rows]
    everything = np.flatnonzero(fold_N != LEFT_OUT)
    shares_K = opened.targets_NK[everything].mean(axis=0)
    fit = fit_of(config.thresholds, shares_K)
    threshold_NK = np.empty_like(probability_NK)
    for fold in range(num_folds):
        here = fold_N[rows] == fold
        threshold_NK[here] = fit(probability_NK[~here], target_NK[~here])
    tuned_NK, rare_K = probability_NK >= threshold_NK, rare_classes(opened.targets_NK[everything])
    scores = all_scores(probability_NK, target_NK, tuned_NK, rare_K)
    sure = bootstrap(probability_NK, target_NK, tuned_NK, rare_K, table_NK=tuned_NK)
    write_results(folder, "oof", names, probability_NK, target_NK, threshold_NK, config.run.name or "", sure.classes)
    fold_scores = [
        {"fold": fold} | {key: summary[key] for key in KEPT if key in summary} for fold, summary in enumerate(summaries)
    ]
    spread = {}
    for name in KEPT[:-3]:
        values = [line[name] for line in fold_scores if line.get(name) is not None]
        spread[f"mean_{name}"] = float(np.mean(values)) if values else None
        spread[f"std_{name}"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    summary = {
        "status": "done",
        "kind": "crossval",
        "part": "oof",
        "folds": num_folds,
        **scores,
        **floor_scores(target_NK),
        "intervals": sure.scores,
        "threshold_rule": config.thresholds.rule,
        **spread,
        "num_images": len(names),
        "fold_scores": fold_scores,
        "run": folder.uri,
    }
    stored = config.thresholds.rule
    return summary, compare_rules(probability_NK, target_NK, names, config.thresholds, shares_K, stored=stored)


def _say(summary: dict[str, Any], folder: RunFolder, page: str) -> None:
    def line(name: str, cells: list[Any]) -> str:
        shown = ["-" if cell is None else cell if isinstance(cell, str) else f"{cell:.3f}" for cell in cells]
        return f"  {name:<26}" + "".join(f"{cell:>10}" for cell in shown)

    console.say()
    console.say(line("", [*TITLES, "images"]))
    for fold in summary["fold_scores"]:
        console.say(line(f"fold {fold['fold'] + 1}", [*(fold[name] for name in SHOWN), str(fold["num_images"])]))
    console.say(line("mean of the folds", [summary[f"mean_{name}"] for name in SHOWN]))
    console.say(line("standard deviation", [summary[f"std_{name}"] for name in SHOWN]))
    console.say(line("out of fold, all images", [*(summary[name] for name in SHOWN), str(summary["num_images"])]))
    sure = [summary["intervals"].get(name) for name in SHOWN]
    console.say(line("95 % interval", ["" if ends is None else f"{ends[0]:.2f}-{ends[1]:.2f}" for ends in sure]))
    if "test_macro_f1" in summary:
        cells = [summary[f"test_{name}"] for name in SHOWN]
        console.say(line("test part, ensemble", [*cells, str(summary["test_num_images"])]))
    console.say(f"folder: {folder.uri}")
    if page:
        console.say(f"to look at: {page}")
    console.say(f"next: hpa-ray predict predict.run={folder.uri} data.images=FOLDER predict.output=FOLDER")
