"""Steps of training, of reading and of both, on a host of the training loop. Before: train/learner. After: rates.

All three make the steps of the last epoch of a run: its settings, its image size, no layer frozen. One feed serves
reading and both, as one serves a whole run.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from hpa_ray.bench.rates import PHASES, Phase, Window
from hpa_ray.config import Config, stages_of
from hpa_ray.errors import Stopped
from hpa_ray.model.precision import numerics
from hpa_ray.schema import Reject
from hpa_ray.shards import CHUNK_ROWS
from hpa_ray.stream import Batch, Data, EpochOrder, Place, Schedule, Steps, check_rejects, training_samples
from hpa_ray.stream.device import DeviceBatch, to_device
from hpa_ray.train.host import Host
from hpa_ray.train.learner import Learner

EPOCHS = 1_000_000
"""Of the feed: never reached."""
WINDOWS = 10
"""Of a measurement, or fewer where a step takes longer than that."""

Step = Callable[[], tuple[int, float]]
"""One step of this worker -> its images, and the seconds in which the next batch was waited for."""


def measure(config: Config, data: Data, host: Host) -> None:
    """Tell the windows of all three measurements, on rank 0. Every rank makes the same steps."""
    config = stages_of(config)[-1].config
    if config.model.normalize != "source":
        data = replace(data, matching=None)
    samples = training_samples(config, data)
    order = EpochOrder(samples.num_samples, config.run.seed, chunk_rows=CHUNK_ROWS)
    steps = Steps(order.num_rows, config.train.batch_size, host.world_size)
    no_rows, start = data.parts["val"][:0], Place(0, steps)
    schedule = Schedule(data.parts["train"], no_rows, samples, order, steps, host.rank, start, EPOCHS)
    learner = Learner(config, data, host, steps, load_weights=False)  # other weights would take as long
    if host.rank == 0:
        host.tell({"event": "where", "where": learner.where, "on_gpu": host.device.type == "cuda"})
    with numerics(host.device, exact=config.exact):
        learner.begin_epoch(config.train.epochs - 1)
        feed = Feed(config, data, host, schedule)
        ways: dict[Phase, Step] = {
            "train": _training(learner, _in_memory(schedule, data, host.device)),
            "read": feed.step,
            "both": _both(learner, feed),
        }
        for phase in PHASES:
            for window in _windows(host, ways[phase], warmup=config.bench.warmup_steps, seconds=config.bench.seconds):
                if host.rank == 0:
                    host.tell({"event": "window", "phase": phase, "window": tuple(window)})
    if host.rank == 0:
        host.tell({"event": "first_batch", "seconds": feed.first_batch_s})


class Feed:
    """The batches of a training, on the device."""

    def __init__(self, config: Config, data: Data, host: Host, schedule: Schedule) -> None:
        self.config, self.data, self.first_batch_s = config, data, 0.0
        self._stream = to_device(host.feed(data.source, schedule), data, host.device)  # reads when it is asked
        self._has_begun = False
        self._rejects: dict[int, Reject] = {}

    def take(self) -> tuple[DeviceBatch, float]:
        """The next batch and the seconds it was waited for. Raises InputError for images that may not be left out."""
        start = time.perf_counter()
        device_batch = next(self._stream)
        seconds = time.perf_counter() - start
        if not self._has_begun:
            self._has_begun, self.first_batch_s = True, seconds
        if rejects := device_batch.batch.rejects:
            self._rejects |= {reject.row: reject for reject in rejects}
            check_rejects(self.config, self.data, list(self._rejects.values()))
        return device_batch, seconds

    def step(self) -> tuple[int, float]:
        """Read only: the batch is dropped."""
        device_batch, seconds = self.take()
        return len(device_batch.batch.rows_B), seconds


def _training(learner: Learner, device_batch: DeviceBatch) -> Step:
    """Train only: again and again on a batch that is on the device."""
    number = 0

    def step() -> tuple[int, float]:
        nonlocal number
        learner.learn(device_batch, learner.config.train.epochs - 1, number % learner.steps.per_epoch)
        number += 1
        return len(device_batch.batch.rows_B), 0.0

    return step


def _both(learner: Learner, feed: Feed) -> Step:
    """What a training does."""

    def step() -> tuple[int, float]:
        device_batch, seconds = feed.take()
        learner.learn(device_batch, learner.config.train.epochs - 1, device_batch.batch.step)
        return len(device_batch.batch.rows_B), seconds

    return step


def _in_memory(schedule: Schedule, data: Data, device: torch.device) -> DeviceBatch:
    """A batch of noise with the rows, and so the labels, of this worker's first one."""
    item, side = schedule[0], data.source.image_size
    shape = (len(item.rows_B), len(data.source.channels), side, side)
    pixels = np.random.default_rng(schedule.rank).integers(0, 256, shape, np.uint8)
    return next(to_device([Batch(*item, pixels, [])], data, device))


def _windows(host: Host, step: Step, *, warmup: int, seconds: float) -> Iterator[Window]:
    """Windows that last `seconds` together; the same number of steps on every rank.

    How many steps a window takes is found by doubling; those that are shorter than half of what is wanted are part of
    the warm-up, until one is not. From then on all count: batches may come in bursts.
    """
    _window(host, step, warmup)
    steps, measured = 1, 0.0
    while measured < seconds:
        window = _window(host, step, steps)
        wanted = max(1, round(steps * seconds / WINDOWS / window.seconds))
        if measured or wanted <= 2 * steps:
            measured += window.seconds
            yield window
        steps = min(wanted, 2 * steps)


def _window(host: Host, step: Step, steps: int) -> Window:
    """Raises Stopped where the machine asked this process to end."""
    if host.notice() == "stop":
        raise Stopped("the measurement was stopped on request")
    start, cpu, images, wait_s = time.perf_counter(), time.process_time(), 0, 0.0
    for _ in range(steps):
        num_images, waited = step()
        images, wait_s = images + num_images, wait_s + waited
    if host.device.type == "cuda":
        torch.cuda.synchronize()
    mine = (images, time.perf_counter() - start, wait_s, time.process_time() - cpu)
    all_images, all_seconds, all_waits, all_cpus = zip(*host.gather(mine), strict=True)
    return Window(steps, sum(all_images), max(all_seconds), sum(all_waits) / len(all_waits), sum(all_cpus))
