"""Start the loop where the configuration says: in this process, or in Ray Train workers.

Imports torch only where the loop runs: Ray's controller and the mailbox load this module too, each in a process of its
own, and importing torch and torchvision costs each of them 5 to 20 s of a core.
"""

import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from hpa_ray import cluster, storage
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
from hpa_ray.errors import InputError, Stopped
from hpa_ray.stream import Data

if TYPE_CHECKING:
    from hpa_ray.train.host import Host

Event = dict[str, Any]
Work = Callable[[Config, Data, "Host"], None]
"""What every worker does. It travels by its name, to processes that should not import torch: it does so itself."""

POLL_S = 0.5


def launch(config: Config, data: Data, folder: RunFolder, show: Callable[[Event], None]) -> None:
    """Run the training to its end; `show` gets the loop's events in this process.

    Raises InputError where the user can help, Stopped where this process was asked to end and the state to go on from
    is stored, and whatever ended the run otherwise.
    """
    on_hosts(partial(_training, folder.uri), config, data, show)


def _training(folder: str, config: Config, data: Data, host: "Host") -> None:
    from hpa_ray.train.loop import train

    train(config, data, host, RunFolder(folder))


def on_hosts(work: Work, config: Config, data: Data, show: Callable[[Event], None]) -> None:
    """Do some work where a training would run. Raises what `launch` does."""
    if config.train.num_workers == 0:
        import torch

        from hpa_ray.train.host import LocalHost

        if config.train.use_gpu and not torch.cuda.is_available():
            raise InputError("train.use_gpu = true, but torch sees no GPU here")
        with _told_to_stop() as must_stop:
            host = LocalHost(config.train.use_gpu, config.train.prefetch_batches, show, must_stop)
            work(config, data, host)
    else:
        cluster.start_ray(config.train.fewest_workers, use_gpu=config.train.use_gpu)
        with _told_to_stop() as must_stop:  # after Ray's start, which sets a handler that aborts
            _on_ray(work, config, data, show, must_stop)


@contextlib.contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether this process was asked to end by SIGTERM, as Slurm, Kubernetes and spot machines do before they kill it.

    Asked a second time, or where signals can not be caught, it ends at once.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, before)
        asked.set()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _on_ray(
    work: Work, config: Config, data: Data, show: Callable[[Event], None], must_stop: Callable[[], bool]
) -> None:
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from hpa_ray.train.backend import OwnAddressConfig

    cfg = config.train
    use_gpu = cluster.has_gpus(cfg.fewest_workers) if cfg.use_gpu is None else cfg.use_gpu
    gpus = cluster.num_gpus()
    if cfg.use_gpu is None and 0 < gpus < cfg.fewest_workers:
        raise InputError(
            f"train.num_workers = {cfg.num_workers}, and the cluster has {gpus} GPUs: give train.num_workers={gpus}, "
            "or train.use_gpu=false to train on CPUs"
        )
    # beside this process: on another node it would end with that node, and the run with it
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
    ended = threading.Event()
    unshown: list[BaseException] = []

    def watch() -> None:
        try:
            _watch(mailbox, ended, show, must_stop)
        except BaseException as error:  # of the screen or the run folder; told after the run, which goes on
            unshown.append(error)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with tempfile.TemporaryDirectory(prefix="hpa_ray_") as scratch:  # Ray's own notes; ours are in the run folder
        trainer = TorchTrainer(
            _worker,
            torch_config=OwnAddressConfig(),
            train_loop_config={"config": config, "data": ray.put(data), "work": work, "mailbox": mailbox},
            scaling_config=ScalingConfig(
                num_workers=(cfg.min_workers, cfg.num_workers) if cfg.min_workers else cfg.num_workers,
                use_gpu=use_gpu,
                resources_per_worker=cfg.resources_per_worker,
                label_selector=cluster.selector("training"),
            ),
            run_config=RunConfig(
                name=config.run.name,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=cfg.max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        failure: Exception | None = None
        try:
            trainer.fit()
        except Exception as error:
            failure = error
        finally:
            ended.set()
            watcher.join()
    problems, fault, stopped = ray.get([mailbox.mistake.remote(), mailbox.fault.remote(), mailbox.stopped.remote()])
    if problems:
        raise InputError(*problems) from failure
    if stopped and failure is None:
        raise Stopped(stopped)
    if failure is not None and fault is not None:
        raise OSError(*fault) from failure
    for problem in (failure, *unshown):
        if problem is not None:
            raise problem


def _worker(settings: dict[str, Any]) -> None:
    """One Ray Train worker. A mistake of the user ends the run instead of being tried again."""
    import ray

    from hpa_ray.train.ray_host import RayHost

    config, mailbox = settings["config"], settings["mailbox"]
    storage.configure(config.storage.settings())
    if ray.get(mailbox.mistake.remote()):
        return
    host = RayHost(config.train.prefetch_batches, mailbox, exact=config.run.exact)
    try:
        settings["work"](config, ray.get(settings["data"]), host)
    except InputError as error:
        ray.get(mailbox.note_mistake.remote(error.problems))
        if host.world_size > 1:  # the other ranks wait for this one: only its failure ends them
            raise
    except Stopped as end:
        ray.get(mailbox.note_stopped.remote(end.reason))
    except OSError as error:  # of a place: worth another try; what is told if that fails too
        if error.filename:
            ray.get(mailbox.note_fault.remote((error.errno, error.strerror, str(error.filename))))
        raise


class Mailbox:
    """What the loop on rank 0 wants shown by the driver, and what ended a worker: the user's mistake, a place that can
    not be read or written, or the driver's wish, which comes the other way. A Ray actor.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._mistake: tuple[str, ...] = ()
        self._fault: tuple[Any, ...] | None = None
        self._must_stop = False
        self._stopped = ""

    def put(self, event: Event) -> None:
        self._events.append(event)

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def note_mistake(self, problems: tuple[str, ...]) -> None:
        self._mistake = self._mistake or problems

    def mistake(self) -> tuple[str, ...]:
        return self._mistake

    def note_fault(self, fault: tuple[Any, ...]) -> None:
        self._fault = fault

    def fault(self) -> tuple[Any, ...] | None:
        """errno, strerror, filename of the last OSError."""
        return self._fault

    def ask_to_stop(self) -> None:
        self._must_stop = True

    def must_stop(self) -> bool:
        return self._must_stop

    def note_stopped(self, reason: str) -> None:
        self._stopped = reason

    def stopped(self) -> str:
        return self._stopped


def _watch(mailbox: Any, ended: threading.Event, show: Callable[[Event], None], must_stop: Callable[[], bool]) -> None:
    import ray

    last = asked = False
    while not last:
        last = ended.wait(POLL_S)  # after the end, once more
        if must_stop() and not asked:
            asked = True
            ray.get(mailbox.ask_to_stop.remote())
        for event in ray.get(mailbox.take.remote()):
            show(event)
