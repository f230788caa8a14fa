"""The training loop: one for every host. Before: stream, learner. After: record.

All randomness is a value (order and draws by seed and epoch, learning rate by step), so the state to resume from is
the learner's and the number of finished epochs.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hpa_ray import storage
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.schema import Reject
from hpa_ray.shards import CHUNK_ROWS
from hpa_ray.stream import Data, EpochOrder, Schedule, Steps, check_rejects, training_samples
from hpa_ray.stream.device import DeviceBatch, to_device
from hpa_ray.train.host import Host
from hpa_ray.train.learner import Learner, numerics
from hpa_ray.train.pictures import Pictures
from hpa_ray.train.record import MAX_SCORED, Recorder, Seen, Watcher

TELL_EVERY_S = 1.0


def train(config: Config, data: Data, host: Host, folder: RunFolder) -> None:
    """Train from the newest checkpoint of the folder, or from the start, to train.epochs."""
    with numerics(config, host.device):
        _train(config, data, host, folder)


def _train(config: Config, data: Data, host: Host, folder: RunFolder) -> None:
    cfg = config.train
    if config.model.normalize != "source":
        data = replace(data, matching=None)
    samples = training_samples(config, data)
    order = EpochOrder(samples.num_samples, config.run.seed, chunk_rows=CHUNK_ROWS)
    steps = Steps(order.num_rows, cfg.batch_size, host.world_size)
    state = folder.load_checkpoint()
    first_epoch = _same_everywhere(host, folder, 0 if state is None else int(state["epoch"]))
    # rank 0 alone reads pretrained weights: its model is what all ranks start with
    learner = Learner(config, data, host, steps, load_weights=state is None and host.rank == 0)
    recorder = Recorder(config, data, folder, learner.loss)
    if state is not None:
        learner.load_state(state)
        recorder.load_state(state["recorder"])
        del state
    if recorder.is_finished:
        return
    pictures = Pictures(config, data, folder, learner) if host.rank == 0 and first_epoch == 0 else None
    schedule = Schedule(
        data.parts["train"], data.parts["val"], samples, order, steps, host.rank, first_epoch, cfg.epochs
    )
    stream = to_device(host.feed(data.source, schedule), data, host.device)
    if host.rank == 0:
        host.tell({"event": "note", "text": f"training on {learner.where}"})
    clock = Clock()
    rejects: dict[int, Reject] = {}  # by manifest row: an image is met in every epoch

    for epoch in range(first_epoch, cfg.epochs):
        learner.begin_epoch(epoch)
        loss_sum, num_images = torch.zeros((), dtype=torch.float64, device=host.device), 0
        seen, found = Watcher(MAX_SCORED // host.world_size), Watcher()
        clock.start()
        for step in range(steps.per_epoch):
            device_batch = clock.wait_for(stream)
            batch = device_batch.batch
            assert (batch.kind, batch.epoch, batch.step) == ("train", epoch, step), "batches came out of order"
            if batch.rejects:
                _note(config, data, rejects, batch.rejects)
            if pictures and (epoch, step) == (0, 0):
                pictures.begin(device_batch)
            losses_B, logits_BK = learner.learn(device_batch, epoch, step)
            loss_sum += losses_B.sum(dtype=torch.float64)
            num_images += len(losses_B)
            seen.add(batch.rows_B, logits_BK)
            if host.rank == 0 and clock.due(batch.step_size):
                _check_finite(learner.failed_at, steps)
                done = epoch * order.num_rows + steps.step(step)[1]
                loss = float(losses_B.mean()) if len(losses_B) else 0.0
                host.tell({"event": "step", "epoch": epoch, "images": done, "loss": loss, **clock.numbers()})
        if host.device.type == "cuda":
            torch.cuda.synchronize()
        clock.stop()

        learner.end_epoch(epoch)
        for _ in range(len(schedule.validation)):
            device_batch = next(stream)
            found.add(device_batch.batch.rows_B, learner.predict(device_batch.images_BCSS))
            _note(config, data, rejects, device_batch.batch.rejects)
        sums = [float(loss_sum), num_images, storage.take_retries()]
        shares = host.gather((sums, learner.failed_at, seen.take(), found.take(), rejects))
        for failed_at in sorted(share[1] for share in shares):
            _check_finite(failed_at, steps)
        total_loss, total_images, num_retries = np.sum([share[0] for share in shares], axis=0)
        metrics: dict[str, Any] = {}
        if host.rank == 0:
            numbers = {
                "train_loss": float(total_loss / max(total_images, 1)),
                "lr": learner.lr,
                "storage_retries": int(num_retries),
                **clock.numbers(),
            }
            metrics = recorder.end_epoch(
                epoch + 1,
                learner.kept,
                Seen.join([share[2] for share in shares]),
                Seen.join([share[3] for share in shares]),
                {row: reject for share in shares for row, reject in share[4].items()},
                numbers,
            )
            folder.save_checkpoint(epoch + 1, {"epoch": epoch + 1, **learner.state(), "recorder": recorder.state()})
            host.tell({"event": "epoch", **metrics})
            if pictures and epoch == 0:
                for problem in pictures.finish():
                    host.tell({"event": "note", "text": problem})
        host.end_epoch(metrics)
        if host.gather(recorder.is_finished)[0]:  # rank 0 knows
            break


class Clock:
    """How the time of training steps divides into waiting for data and computing; the first batch stands apart."""

    def __init__(self) -> None:
        self.first_batch_s: float | None = None
        self.wait_s = self.train_s = 0.0
        self.images = 0
        self._began = self._told = 0.0

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self) -> None:
        now = time.perf_counter()
        self.train_s, self._began = self.train_s + now - self._began, now

    def wait_for(self, stream: Iterator[DeviceBatch]) -> DeviceBatch:
        start = time.perf_counter()
        batch = next(stream)
        waited = time.perf_counter() - start
        if self.first_batch_s is None:
            self.first_batch_s = waited
            self._began += waited
        else:
            self.wait_s += waited
        return batch

    def due(self, step_size: int) -> bool:
        """Count a step; True when it is time to tell the user."""
        self.images += step_size
        now = time.perf_counter()
        if now - self._told < TELL_EVERY_S:
            return False
        self._told = now
        self.stop()
        return True

    def numbers(self) -> dict[str, float]:
        seconds = max(self.train_s, 1e-9)
        return {
            "images_per_s": round(self.images / seconds, 2),
            "data_wait_pct": round(100 * self.wait_s / seconds, 2),
            "first_batch_s": round(self.first_batch_s or 0.0, 3),
        }


def _same_everywhere(host: Host, folder: RunFolder, epoch: int) -> int:
    """Raises InputError if the ranks found checkpoints of different epochs: the folder is not one, but one per node."""
    epochs = host.gather(epoch)
    if len(set(epochs)) > 1:
        raise InputError(
            f"run.storage: {folder.uri} is not the same folder on all machines (checkpoints of the epochs "
            f"{', '.join(map(str, epochs))} were found) - give a shared folder or a bucket"
        )
    return epoch


def _note(config: Config, data: Data, rejects: dict[int, Reject], new: list[Reject]) -> None:
    before = len(rejects)
    rejects |= {reject.row: reject for reject in new}
    if len(rejects) > before:
        check_rejects(config, data, list(rejects.values()))


def _check_finite(failed_at: int, steps: Steps) -> None:
    if failed_at >= 0:
        epoch, step = divmod(failed_at, steps.per_epoch)
        raise InputError(
            f"the loss is not a finite number in epoch {epoch + 1}, step {step + 1}: lower optim.lr, set "
            "optim.clip_norm, or look at the data"
        )
