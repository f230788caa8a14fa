"""One trial in a process that has torch loaded: the same loop as `train`. Before: plan. After: search."""

from collections.abc import Callable
from typing import Any

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config, dump_config
from hpa_ray.errors import InputError
from hpa_ray.storage import list_files, read_bytes, write_bytes
from hpa_ray.stream import Data
from hpa_ray.tune.space import with_overrides
from hpa_ray.tune.study import Trial

Line = dict[str, Any]
OF_THE_TRIAL = ("trial.json", "outcome.json", "config.yaml")
"""Files that say what a trial is, rather than what it is like."""


def config_of(base: Config, trial: Trial, *, storage: str) -> Config:
    """The configuration of a trial's run: what `train` would have, without what nobody looks at."""
    config = with_overrides(base, trial.overrides)
    run = {"name": f"{trial.number:04d}", "storage": storage, "seed": trial.seed, "resume": True}
    return config.model_copy(
        update={
            "run": config.run.model_copy(update=run),
            "train": config.train.model_copy(update={"select": base.tune.metric, "stop_epoch": trial.until}),
            "track": config.track.model_copy(update={"pictures": False, "analysis": False, "tensorboard": False}),
        }
    )


def inherit(folder: RunFolder, parent: RunFolder) -> None:
    """Copy the state of a trial's parent and what its epochs gave, unless the trial has begun already.

    Raises InputError if the parent failed before it had any.
    """
    if folder.checkpoints():
        return
    stored = parent.checkpoints()
    if not stored:
        raise InputError(f"{parent.uri}: failed before there was anything to go on from")
    for name in list_files(parent.uri):
        if name not in OF_THE_TRIAL:
            write_bytes(folder.path(name), read_bytes(parent.path(name)))
    write_bytes(folder.path("checkpoints", stored[-1]), read_bytes(parent.path("checkpoints", stored[-1])))


def run_trial(
    config: Config,
    data: Data,
    folder: RunFolder,
    report: Callable[[Line], None],
    *,
    num_threads: int,
    use_gpu: bool,
    with_test: bool,
) -> Line | None:
    """Train from the newest checkpoint of the folder to the end; `report` gets every epoch's line and may raise.

    Returns the scores on the test part if they are wanted.
    """
    folder.write_text("config.yaml", dump_config(config))

    def tell(event: Line) -> None:
        if event["event"] == "epoch":
            report({key: value for key, value in event.items() if key != "event"})

    if config.train.num_workers > 1:
        from hpa_ray.train import launch

        launch(config, data, folder, tell)
    else:
        from hpa_ray.train.host import LocalHost
        from hpa_ray.train.loop import train

        host = LocalHost(use_gpu, config.train.prefetch_batches, tell, num_threads=num_threads)
        train(config, data, host, folder)
    rows = data.parts.get("test")
    if not with_test or rows is None or not len(rows):
        return None
    from hpa_ray.evaluate import evaluate
    from hpa_ray.predict import open_ensemble

    # the study has intervals of its own, of differences between trials
    ensemble = open_ensemble([folder.uri], config.inference)
    found = evaluate(config, ensemble, data, rows, part="test", folder=folder, with_intervals=False)
    return {
        name: value for name, value in found.items() if not isinstance(value, dict)
    }  # how it was looked at: as ever
