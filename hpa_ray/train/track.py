"""What a run tells while it goes on: curves, TensorBoard event files, MLflow, Weights & Biases. Before: launch.

Runs in the driver, which knows the user's accounts. Files are written whole, curves from all lines of metrics.jsonl, so
a resumed run leaves the same files as one that was never stopped, also in an object store.
"""

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config, config_tree
from hpa_ray.errors import InputError
from hpa_ray.storage import write_bytes

Line = dict[str, Any]
DRAW_EVERY_S = 30.0
EVENT_FILE = "events.out.tfevents.{:010d}.hpa_ray"


class Tracker(Protocol):
    def epoch(self, lines: Sequence[Line]) -> None:
        """All lines of metrics.jsonl so far; the last one is new."""
        ...

    def end(self, ended_well: bool) -> None: ...


@contextmanager
def tracking(config: Config, folder: RunFolder, say: Callable[[str], None]) -> Iterator[Callable[[Line], None]]:
    """Yields what to call with every epoch's line.

    Raises InputError where a service that is asked for can not be used. One that fails later is told of and left out:
    it must not cost the run.
    """
    lines = folder.read_metrics()
    trackers: list[Tracker] = [Curves(folder)] if config.track.pictures else []
    if config.track.tensorboard:
        trackers.append(TensorBoard(folder))
    if config.track.mlflow:
        trackers.append(MLflow(config, len(lines)))
    if config.track.wandb:
        trackers.append(WandB(config, len(lines)))

    def each(act: Callable[[Tracker], None]) -> None:
        for tracker in list(trackers):
            try:
                act(tracker)
            except Exception as error:
                trackers.remove(tracker)
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                say(f"note: {type(tracker).__name__} failed and is left out from here on ({reason})")

    def epoch(event: Line) -> None:
        # a run stopped between its line and its checkpoint repeats the epoch
        lines[:] = [line for line in lines if line["epoch"] < event["epoch"]]
        lines.append({key: value for key, value in event.items() if key != "event"})
        each(lambda tracker: tracker.epoch(lines))

    ended_well = False
    try:
        yield epoch
        ended_well = True
    finally:
        each(lambda tracker: tracker.end(ended_well))


class Curves:
    """figures/curves.png: every score over the epochs."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._lines: Sequence[Line] = ()
        self._drawn_at = time.monotonic()

    def epoch(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        if time.monotonic() - self._drawn_at > DRAW_EVERY_S:
            self._draw()

    def end(self, ended_well: bool) -> None:
        if self._lines:
            self._draw()

    def _draw(self) -> None:
        from hpa_ray import figures  # matplotlib takes a second to import

        write_bytes(self.folder.path("figures", "curves.png"), figures.figure_png(figures.curves(self._lines)))
        self._drawn_at = time.monotonic()


class TensorBoard:
    """An event file per epoch, whole at once: object stores know no appending, and TensorBoard goes on to new files."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def epoch(self, lines: Sequence[Line]) -> None:
        from tensorboardX import SummaryWriter

        line = lines[-1]
        with tempfile.TemporaryDirectory(prefix="hpa_ray_") as scratch:
            with SummaryWriter(scratch) as writer:
                for name, value in scalars(line).items():
                    writer.add_scalar(name, value, line["epoch"])
            (file,) = Path(scratch).iterdir()
            write_bytes(self.folder.path("tensorboard", EVENT_FILE.format(line["epoch"])), file.read_bytes())

    def end(self, ended_well: bool) -> None:
        pass


class MLflow:
    """A run of the experiment hpa_ray; a resumed run of the same name goes on in the same one."""

    def __init__(self, config: Config, num_earlier: int) -> None:
        mlflow = _extra("mlflow", "track.mlflow")
        name = config.run.name
        try:
            self.client = mlflow.MlflowClient(tracking_uri=config.track.mlflow)
            found = self.client.get_experiment_by_name("hpa_ray")
            experiment = found.experiment_id if found else self.client.create_experiment("hpa_ray")
            earlier = self.client.search_runs([experiment], f"attributes.run_name = '{name}'") if num_earlier else []
            self.run_id = (
                earlier[0].info.run_id if earlier else self.client.create_run(experiment, run_name=name).info.run_id
            )
            if not earlier:
                for key, value in flat_settings(config).items():
                    self.client.log_param(self.run_id, key, value)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise InputError(f"track.mlflow = {config.track.mlflow}: can not be used ({reason})") from error

    def epoch(self, lines: Sequence[Line]) -> None:
        for name, value in scalars(lines[-1]).items():
            self.client.log_metric(self.run_id, name, value, step=lines[-1]["epoch"])

    def end(self, ended_well: bool) -> None:
        self.client.set_terminated(self.run_id, "FINISHED" if ended_well else "FAILED")


class WandB:
    """A run of the project; its id is the name of the run, so a resumed one goes on."""

    def __init__(self, config: Config, num_earlier: int) -> None:
        wandb = _extra("wandb", "track.wandb")
        folder = os.environ.get("WANDB_DIR") or tempfile.mkdtemp(prefix="hpa_ray_wandb_")
        try:
            self.run = wandb.init(
                project=config.track.wandb,
                name=config.run.name,
                id=config.run.name,
                resume="allow",
                config=flat_settings(config),
                dir=folder,
                # its own notes of the machine hold the command line, and that may hold keys
                settings=wandb.Settings(silent=True, console="off", x_disable_meta=True),
            )
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise InputError(
                f"track.wandb = {config.track.wandb}: can not be used ({reason}) - log in by `wandb login`, or set "
                "WANDB_MODE=offline"
            ) from error

    def epoch(self, lines: Sequence[Line]) -> None:
        self.run.log(scalars(lines[-1]), step=lines[-1]["epoch"])

    def end(self, ended_well: bool) -> None:
        self.run.finish(exit_code=0 if ended_well else 1)


def scalars(line: Line) -> dict[str, float]:
    """A line of metrics.jsonl under the names of TensorBoard: train/..., val/..., speed/... ."""
    groups = {"lr": "train", "images_per_s": "speed", "data_wait_pct": "speed", "first_batch_s": "speed"}
    groups |= {"wall_s": "speed", "storage_retries": "speed"}
    found = {}
    for name, value in line.items():
        if name == "epoch" or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if name.startswith(("train_", "val_")):
            group, _, name = name.partition("_")
        else:
            group = groups.get(name, "val")
        found[f"{group}/{name}"] = float(value)
    return found


def flat_settings(config: Config) -> dict[str, Any]:
    """Dotted keys without credentials and without what is unset."""
    tree = config_tree(config)
    sections = ("data", "split", "model", "loss", "sampling", "augment", "optim", "train", "thresholds", "run")
    flat = {f"{section}.{name}": value for section in sections for name, value in tree[section].items()}
    return {key: value for key, value in flat.items() if value is not None}


def _extra(package: str, key: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"{key} needs the extra: pip install 'hpa-ray[{package}]'") from error
