"""The study on Ray Tune: warm processes that train one trial after another, and ASHA. Before: plan, trial. After: cli.

Ray Tune starts, stops and replaces processes; what is to be done, and what was, is the plan's, on storage of ours: its
own snapshots are pickles, come every few seconds, and are not needed here.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import ray
import ray.tune
from ray.tune import FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher

from hpa_ray import cluster, storage
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.stream import Data
from hpa_ray.tune.plan import Plan
from hpa_ray.tune.study import GRACE_CLASSES, Trial
from hpa_ray.tune.trial import config_of, inherit, run_trial

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # its csv, JSON and TensorBoard files: the run folders have all that
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # its snapshots, which are not read
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",  # a trial that is stopped may be writing a checkpoint
}
Tell = Callable[[Trial], None]


class Need(dict[str, float]):
    """Resources of a process: CPU, GPU."""


def need_of(config: Config) -> Need:
    """What one process of a trial takes of the running cluster."""
    cfg = config.tune
    gpus = cfg.gpus
    if gpus is None:
        gpus = 0.0 if config.train.use_gpu is False or not cluster.num_gpus() else 1.0
    if config.train.use_gpu and not gpus:
        raise InputError("train.use_gpu = true, and tune.gpus = 0 or no GPU in the cluster: change one of them")
    return Need({"CPU": cfg.cpus or 1.0} | ({"GPU": gpus} if gpus else {}))


def concurrency_of(config: Config, need: Need) -> int:
    """Trials that the cluster holds side by side. Raises InputError if it can never hold one."""
    nodes = cluster.resources("training")
    places = [min(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in need.items()) for node in nodes]
    workers = max(1, config.train.num_workers)
    trials = sum(places)
    if workers > 1 and cluster.selector("data"):
        trials //= workers
    elif workers > 1:  # a trial of several workers reads its data by Ray Data, which needs a CPU of its own
        cpus = sum(node.get("CPU", 0.0) for node in nodes)
        trials = min(trials // workers, int(cpus // (workers * need["CPU"] + 1)))
    if trials < 1:
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in need.items())
        found = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in need) for node in nodes)
        more = f" in each of {workers} workers, and a CPU that reads" if workers > 1 else ""
        raise InputError(
            f"a trial needs {wanted}{more}, which no node has (nodes: {found}) - "
            "set tune.cpus, tune.gpus or train.num_workers lower, or join a larger cluster"
        )
    return int(min(trials, config.tune.concurrency or trials))


def _placed(resources: dict[str, float]) -> Any:
    place = cluster.selector("training")
    return PlacementGroupFactory([resources], bundle_label_selector=[place]) if place else resources


def search(plan: Plan, data: Data, need: Need, concurrency: int, tell: Tell) -> None:
    """Run what is left of the study; `tell` is told of every trial that begins, that has a further epoch or is over.

    Raises KeyboardInterrupt where it was interrupted; what was begun is gone on with by the same command.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    several = plan.config.train.num_workers > 1
    function = ray.tune.with_parameters(
        _trial,
        shared=[cluster.share((plan.config, data))],  # in a list: fetched once per process, not once per trial
        uri=plan.folder.uri,
        grace_epochs=plan.grace_epochs,
        num_threads=max(1, round(need["CPU"])),
        use_gpu=bool(need.get("GPU")),
    )
    # a trial of several workers waits for them; they take the resources, and Ray Tune knows no process without any
    resources = {"CPU": 0.01} if several else dict(need)
    asker = Asker(plan, concurrency, tell)
    with tempfile.TemporaryDirectory(prefix="hpa_ray_") as scratch:
        Tuner(
            ray.tune.with_resources(function, _placed(resources)),
            tune_config=TuneConfig(
                search_alg=asker, scheduler=Halving(plan, tell), num_samples=-1, reuse_actors=not several
            ),
            run_config=RunConfig(
                name="study",
                storage_path=scratch,
                verbose=0,
                failure_config=FailureConfig(max_failures=plan.cfg.max_failures),
            ),
        ).fit()
    if not plan.is_over:
        raise KeyboardInterrupt


class Asker(Searcher):  # type: ignore[misc]
    """Ray Tune's view of the plan: one trial after the other, so many at a time."""

    def __init__(self, plan: Plan, concurrency: int, tell: Tell) -> None:
        super().__init__()
        self.plan, self.concurrency, self.tell = plan, concurrency, tell
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        if len(self.plan.live) >= self.concurrency:
            return None
        trial = self.plan.next()
        if trial is None:
            return self.FINISHED if self.plan.is_over else None
        self._numbers[trial_id] = trial.number
        self.tell(trial)
        return {"number": trial.number, "trial": trial._replace(lines=())._asdict()}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id)
        last = result or {}
        if error:
            times = self.plan.cfg.max_failures + 1
            trial = self.plan.end(number, "failed", reason=f"its process was lost {times} times")
        elif "reason" in last:
            trial = self.plan.end(number, "failed", reason=last["reason"])
        elif "test" in last:
            trial = self.plan.end(number, "done", test=json.loads(last["test"]))
        else:
            trial = self.plan.end(number, "stopped")
        self.tell(trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what there is to save is on storage."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a study is resumed from its trials, not from what Ray Tune keeps")


class Halving(FIFOScheduler):  # type: ignore[misc]
    """ASHA (Li et al. 2020) over the searched trials, by their numbers: those of earlier starts count too.

    The trial with nothing changed and the finals are not stopped.
    """

    def __init__(self, plan: Plan, tell: Tell) -> None:
        super().__init__()
        self.plan, self.tell = plan, tell
        self.asha: Any = None
        if plan.cfg.scheduler == "asha":
            self.asha = AsyncHyperBandScheduler(
                time_attr="epoch",
                metric="value",
                mode="max",
                max_t=plan.config.train.epochs,
                grace_period=plan.grace_epochs,
                reduction_factor=plan.cfg.reduction,
                stop_last_trials=False,
            )
        for trial in list(plan.trials.values()):
            decision = self.CONTINUE
            for number in range(len(trial.lines)):
                decision = self._decide(trial._replace(lines=trial.lines[: number + 1]))
            if decision == self.STOP and not trial.is_over:  # decided, and killed before it was noted
                plan.end(trial.number, "stopped")

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        if "line" not in result:
            return str(self.CONTINUE)
        number = trial.config["number"]
        self.plan.heard(number, json.loads(result["line"]))
        self.tell(self.plan.trials[number])
        return self._decide(self.plan.trials[number])

    def _decide(self, trial: Trial) -> str:
        value = self.plan.value(trial)
        if self.asha is None or trial.final_of is not None or value is None:
            return str(self.CONTINUE)
        stub = SimpleNamespace(trial_id=trial.number)
        if trial.number not in self.asha._trial_info:
            self.asha.on_trial_add(None, stub)
        decision = str(self.asha.on_trial_result(None, stub, {"epoch": trial.epochs, "value": value}))
        return decision if trial.number else str(self.CONTINUE)


def _trial(
    settings: dict[str, Any], *, shared: Any, uri: str, grace_epochs: int, num_threads: int, use_gpu: bool
) -> None:
    """In a process of Ray Tune: one trial, whose failure is a result like any other."""
    base, data = cluster.shared(shared[0])
    trial = Trial(**settings["trial"])
    folder = RunFolder(storage.join(uri, "trials", f"{trial.number:04d}"))

    def report(line: dict[str, Any]) -> None:
        if line["epoch"] == grace_epochs:  # the last one that all trials have: classes are compared there
            folder.write_text(GRACE_CLASSES, folder.read_text("per_class.csv"))
        ray.tune.report({"line": json.dumps(line)})

    try:
        config = config_of(base, trial, storage=storage.join(uri, "trials"))
        if trial.parent is not None:
            inherit(folder, RunFolder(storage.join(uri, "trials", f"{trial.parent:04d}")))
        test = run_trial(
            config,
            data,
            folder,
            report,
            num_threads=num_threads,
            use_gpu=use_gpu,
            with_test=trial.final_of is not None,
        )
    except InputError as error:
        ray.tune.report({"reason": "; ".join(error.problems)})
    except Exception as error:
        ray.tune.report({"reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]})
    else:
        ray.tune.report({"test": json.dumps(test)})
