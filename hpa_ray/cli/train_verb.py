"""`train`: from data to a run folder."""

import contextlib
import difflib
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import yaml

from hpa_ray import cluster
from hpa_ray.checkpoint.judge import close_run
from hpa_ray.checkpoint.results import selectable
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, home, resolve, with_atlas_shards
from hpa_ray.config import Config, dump_config, stages_of, without_credentials
from hpa_ray.config.architectures import TIMM
from hpa_ray.config.contradictions import contradictions
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.progress import Progress, console, one_line
from hpa_ray.storage import Unreachable, abandon, join, remove
from hpa_ray.stream import Data, open_data, training_samples
from hpa_ray.train import launch
from hpa_ray.train.track import tracking

MAY_DIFFER = (
    "run.resume",
    "run.storage",
    "train.num_workers",
    "train.min_workers",
    "train.resources",
    "train.use_gpu",
    "train.prefetch_batches",
    "train.max_failures",
    "train.checkpoint_every",
    "train.hang_timeout_s",
    "train.stop_epoch",
)
"""Keys that may have another value when a run is resumed: they say where it runs. The number of workers also changes
the global batch, which is told."""
PLACES = ("data.shards", "data.images", "data.labels")
"""Keys that are known only once the images given, or the embedded ones, are shards."""
REPORT = "report.html"
PACKAGES = ("hpa-ray", "ray", "torch", "torchvision", "pyarrow", "numpy", "pillow")


def train(invocation: Invocation) -> dict[str, Any]:
    began = time.monotonic()
    config = resolve(invocation)
    if config.run.resume and not config.run.name:
        raise InputError("run.resume=true needs run.name=NAME, the run to go on with")
    config, folder = named(config)
    check_settings(config)
    with console.logging() as log:
        claim(folder, config, dry=True)
        data = open_data(config) if has_data(config) else None  # mistakes first: Ray takes seconds, the atlas minutes
        if config.train.num_workers:
            cluster.start_ray(config.train.fewest_workers, use_gpu=config.train.use_gpu)
        if data is None:
            config = with_atlas_shards(config)
            data = open_data(config)
        return _claimed_run(config, data, folder, log, began)


def train_run(config: Config, data: Data, folder: RunFolder) -> dict[str, Any]:
    """One training from its data to its folder, or on from where that is; returns the summary."""
    with console.logging() as log:
        return _claimed_run(config, data, folder, log, time.monotonic())


def _claimed_run(config: Config, data: Data, folder: RunFolder, log: list[str], began: float) -> dict[str, Any]:
    """The run and, however it ends, its log."""
    claim(folder, config)
    try:
        summary = _train(config, data, folder, log, began)
    except BaseException as error:
        if isinstance(error, (Unreachable, KeyboardInterrupt)):
            abandon()  # notes of the end are not worth ten attempts at a store that is down
        with contextlib.suppress(OSError):  # what ended the run is what is told
            _end_badly(folder, error)
        with contextlib.suppress(OSError):
            folder.write_text("run.log", "\n".join(log) + "\n")
        raise
    folder.write_text("run.log", "\n".join(log) + "\n")
    return summary


def named(config: Config, kind: str = "train") -> tuple[Config, RunFolder]:
    """With the name and the place that a run gets where none is given; and its folder."""
    name = config.run.name or datetime.now().strftime(f"{kind}-%Y%m%d-%H%M%S")
    storage = config.run.storage or str(home() / "runs")
    run = config.run.model_copy(update={"name": name, "storage": storage})
    return config.model_copy(update={"run": run}), RunFolder(join(storage, name))


def _train(config: Config, data: Data, folder: RunFolder, log: list[str], began: float) -> dict[str, Any]:
    for note in data.notes:
        console.say(f"note: {note}")
    sizes = {part: len(rows) for part, rows in data.parts.items()}
    cfg = config.train
    number = f"{cfg.min_workers} to {cfg.num_workers}" if cfg.min_workers else str(cfg.num_workers)
    where = f"{number} Ray Train workers" if cfg.num_workers else "this process, without Ray"
    console.say(
        f"training {config.model.name} on {sizes['train']} images ({', '.join(data.source.channels)}; "
        f"{data.source.image_size} px) for {config.train.epochs} epochs, in {where}"
    )
    folder.write_json("environment.json", environment())
    folder.write_json("data.json", data_facts(data.parts, data.targets_NK, data.source.image_size, data.notes))
    total = config.train.epochs * training_samples(config, data).num_samples
    with console.progress("train", total) as progress, tracking(config, folder, console.say) as track:

        def show(event: dict[str, Any]) -> None:
            _show(event, progress, config)
            if event["event"] == "hang":  # without Ray, this process ends next
                _end_badly(folder, TimeoutError(event["text"]))
            if event["event"] == "epoch":
                track(event)
                folder.write_text("run.log", "\n".join(log) + "\n")

        launch(config, data, folder, show)
    summary: dict[str, Any] = folder.read_json("summary.json")
    if summary["status"] == "running":  # train.stop_epoch
        summary["status"] = "stopped"
        console.say(f"stopped after {summary['epochs']} of {config.train.epochs} epochs; run.resume=true goes on")
    of_val = close_run(folder, config.thresholds, rare_K=data.rare_K, shares_K=data.shares_K).scores
    of_test = test_scores(config, data, folder)
    summary |= of_test | {"intervals": of_val | of_test.get("intervals", {})}
    if config.track.analysis and summary["status"] == "done":
        _analysis(config, data, folder)
    summary |= {"run": folder.uri, "wall_s": round(time.monotonic() - began, 1)}
    folder.write_json("summary.json", summary)
    page = write_report(folder) if config.track.report else ""
    _say_result(summary, folder, page)
    return summary


def data_facts(
    rows_of: Mapping[str, np.ndarray], targets_NK: np.ndarray, image_size: int, notes: Sequence[str]
) -> dict[str, Any]:
    """data.json: what a page says of the data without having them. rows_of: manifest rows of each part."""
    parts = {
        part: {"images": len(rows), "classes": targets_NK[rows].sum(axis=0, dtype=np.int64).tolist()}
        for part, rows in rows_of.items()
        if len(rows)
    }
    return {"parts": parts, "image_size": image_size, "notes": list(notes)}


def write_report(folder: RunFolder) -> str:
    """Write report.html; its address, or nothing where it could not be made, which must not cost the run."""
    from hpa_ray.report import report_page  # here: none of it is needed before the end

    try:
        folder.write_text(REPORT, report_page([folder.uri]))
    except Exception as error:  # whatever it is, the run is done and whole
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        console.say(
            f"note: {REPORT} could not be made ({reason}) - `hpa-ray report report.run={folder.uri}` tries again"
        )
        return ""
    return folder.path(REPORT)


def test_scores(config: Config, data: Data, folder: RunFolder) -> dict[str, Any]:
    """Scores of the best model, or of all folds together, on the test part, which no choice of the run has seen."""
    rows = data.parts.get("test", np.empty(0, np.int64))
    if not len(rows):
        return {}
    from hpa_ray.evaluate import evaluate  # here: mistakes in the input should not wait for torch
    from hpa_ray.predict import open_ensemble

    ensemble = open_ensemble([folder.uri], config.inference, console.say)
    with console.progress("test", len(rows)) as show:
        scores = evaluate(config, ensemble, data, rows, part="test", folder=folder, on_progress=show)
    flat = {
        f"test_{name}": value
        for name, value in scores.items()
        if value is None or isinstance(value, float) or name.startswith("num_")
    }
    return flat | {"intervals": {f"test_{name}": ends for name, ends in scores["intervals"].items()}}


def _analysis(config: Config, data: Data, folder: RunFolder) -> None:
    """A look at the part that is reported. What goes wrong in it is told, and must not cost the run."""
    from hpa_ray.analysis.run import analyze
    from hpa_ray.checkpoint.model_file import load_model

    part = "test" if len(data.parts.get("test", ())) else "val"
    rows = data.parts[part]
    # by PCA: importing UMAP alone takes longer than all the rest
    quick = config.model_copy(update={"analyze": config.analyze.model_copy(update={"map": "pca"})})
    try:
        with console.progress("analyze", min(len(rows), config.analyze.max_images)) as show:
            analyze(quick, load_model(folder.uri), data, rows, part=part, folder=folder, on_progress=show)
    except Exception as error:  # of whatever library; the model and its scores are written
        reason = one_line(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        console.say(
            f"note: the {part} part could not be looked at ({reason}) - "
            f"`hpa-ray analyze analyze.run={folder.uri} analyze.part={part}` tries again"
        )


def _show(event: dict[str, Any], progress: Progress, config: Config) -> None:
    if event["event"] in ("note", "hang"):
        console.say(f"note: {event['text']}")
        return
    if event["event"] == "step":
        speed = f"{event['images_per_s']:.0f} images/s, waiting for data {event['data_wait_pct']:.1f} %"
        note = f"epoch {event['epoch'] + 1}/{config.train.epochs}, loss {event['loss']:.4f}, {speed}"
        progress(event["images"], note)
        return
    present = event["num_present_classes"]
    of_present = f", of {present} present classes {event['macro_f1_present_tuned'] or 0:.3f}"
    console.say(
        f"epoch {event['epoch']:>3}/{config.train.epochs}  loss {event['train_loss']:.4f}  "
        f"macro F1 {event['macro_f1_tuned']:.3f} (at 0.5: {event['macro_f1']:.3f}"
        f"{of_present if present < NUM_CLASSES else ''})  mAP {event['map'] or 0:.3f}  "
        f"{event['images_per_s']:.0f} images/s  waiting for data {event['data_wait_pct']:.1f} %"
    )


def check_settings(config: Config) -> None:
    """Raises InputError for what only a worker, or the end of the first epoch, would find otherwise."""
    problems = contradictions(config)
    try:
        stages_of(config)
    except InputError as error:
        problems += error.problems
    names = selectable()
    if config.train.select not in names:
        close = difflib.get_close_matches(config.train.select, names, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(names))}"
        problems.append(f"train.select = {config.train.select!r}: no score of this name - {hint}")
    if config.model.name.startswith(TIMM) and find_spec("timm") is None:
        problems.append(f"model.name = {config.model.name}: needs the extra: pip install 'hpa-ray[timm]'")
    if problems:
        raise InputError(*problems)


def claim(
    folder: RunFolder, config: Config, *, dry: bool = False, more: Sequence[str] = (), may_differ: Sequence[str] = ()
) -> None:
    """Make the run folder this run's own. Raises InputError if it is another's, or not the same run's.

    more: sections that say what the run is, beside those of a training. may_differ: keys that do not, beside ours.
    """
    text = dump_config(config)
    is_new = not folder.exists()
    if is_new or _ended_empty(folder):
        if not dry:
            folder.write_text("config.yaml", text)
        if not dry and not is_new:
            remove([folder.path("summary.json")])
        return
    if not config.run.resume:
        raise InputError(
            f"{folder.uri}: there is a run of this name already - "
            "choose another run.name, or go on with it by run.resume=true"
        )
    try:
        before = _flat(yaml.safe_load(folder.read_text("config.yaml")))
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(f"{folder.uri}/config.yaml: damaged - choose another run.name") from error
    before = _flat({"thresholds": Config().thresholds.model_dump()}) | before  # runs from before there were rules
    now = _flat(yaml.safe_load(text))
    ignored = (*MAY_DIFFER, *may_differ, *(PLACES if dry else ()))
    sections = ("data", "split", "model", "loss", "sampling", "augment", "optim", "train", "thresholds", "run", *more)
    keys = [key for key in now if key not in ignored and key.split(".")[0] in sections]
    changed = [f"{key}: {before.get(key)} there, {now[key]} here" for key in keys if before.get(key) != now[key]]
    if changed:
        raise InputError(
            f"{folder.uri} was started with other settings - {'; '.join(changed)}: use those, or another run.name"
        )
    workers, workers_before = config.train.num_workers, before.get("train.num_workers")
    if not dry and isinstance(workers_before, int) and max(workers, 1) != max(workers_before, 1):
        console.say(f"note: the run had {workers_before} workers and goes on with {workers}: its global batch changes")


def _ended_empty(folder: RunFolder) -> bool:
    """Whether a run stopped before its first epoch was done, as on a mistake in its input: nothing can be lost."""
    try:
        summary = folder.read_json("summary.json")
        stopped = summary["epochs"] == 0 and summary["status"] in ("failed", "interrupted")
        return bool(stopped) and not folder.checkpoints()
    except (FileNotFoundError, ValueError, TypeError, LookupError):
        return False


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, values in tree.items() for name, value in values.items()}


def _end_badly(folder: RunFolder, error: BaseException) -> None:
    """Leave a summary that says how the run ended; what the epochs so far gave stays in it."""
    status = "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"
    try:
        summary = folder.read_json("summary.json")
    except (FileNotFoundError, ValueError):  # none yet, or damaged
        summary = {"epochs": 0}
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    folder.write_json("summary.json", summary | {"status": status, "reason": reason})


def environment() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "packages": {name: version(name) for name in PACKAGES},
        "command": [os.path.basename(sys.argv[0]), *without_credentials(sys.argv[1:])],
    }


def _say_result(summary: dict[str, Any], folder: RunFolder, page: str) -> None:
    part = "test_" if "test_macro_f1" in summary else ""
    console.say()
    console.say(f"{'test' if part else 'validation'} part, {summary[f'{part}num_images']} images:")
    present = summary[f"{part}num_present_classes"]
    of_present = f"                of {present} present classes" if present < NUM_CLASSES else ""
    console.say(f"                                  macro F1                micro F1{of_present}")
    rows = (
        ("thresholds tuned on validation", "macro_f1_tuned", "micro_f1_tuned", "macro_f1_present_tuned"),
        ("threshold 0.5", "macro_f1", "micro_f1", "macro_f1_present"),
        ("best constant prediction", "floor_macro_f1", "floor_micro_f1", "floor_macro_f1_present"),
    )
    for name, *keys in rows:
        cells = [_with_interval(summary, f"{part}{key}") for key in keys[: 3 if of_present else 2]]
        console.say(f"  {name:<32}{'  '.join(f'{cell:<22}' for cell in cells)}".rstrip())
    console.say("  (in brackets 95 % intervals: other images of the same kind, the same training)")
    console.say(f"run folder: {folder.uri}")
    if page:
        console.say(f"to look at: {page}")
    console.say(f"next: hpa-ray predict predict.run={folder.uri} data.images=FOLDER predict.output=FOLDER")


def _with_interval(summary: dict[str, Any], name: str) -> str:
    """Such as `0.554 (0.512-0.581)`; the best constant prediction has no interval."""
    if (value := summary[name]) is None:
        return "-"
    ends = summary["intervals"].get(name)
    return f"{value:.3f}" + (f" ({ends[0]:.3f}-{ends[1]:.3f})" if ends else "")
