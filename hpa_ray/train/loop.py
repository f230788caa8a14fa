"""The training loop: one for every host. Before: stream, learner. After: record.

All randomness is a value (order and draws by seed and place in the epoch, learning rate by step), so the state to
resume from is the learner's, the place, and what the epoch has given so far.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from hpa_ray import storage
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config, stages_of
from hpa_ray.errors import InputError, Stopped
from hpa_ray.model.precision import numerics
from hpa_ray.schema import Reject
from hpa_ray.shards import CHUNK_ROWS
from hpa_ray.stream import Data, EpochOrder, Place, Schedule, Steps, check_rejects, training_samples
from hpa_ray.stream.device import DeviceBatch, to_device
from hpa_ray.train.host import Host
from hpa_ray.train.learner import STEPS, Learner
from hpa_ray.train.pictures import Pictures
from hpa_ray.train.record import MAX_SCORED, Recorder, Seen, Watcher
from hpa_ray.train.saving import (
    Saver,
    Taken,
    Tally,
    digest,
    newest_checkpoint,
    place_of,
    place_state,
    rejects_of,
    taken_of,
)
from hpa_ray.train.watchdog import Watchdog

TELL_EVERY_S = 1.0


def train(config: Config, data: Data, host: Host, folder: RunFolder) -> None:
    """Train from the newest checkpoint of the folder, or from the start, to train.epochs or train.stop_epoch.

    Raises Stopped where the machine asked this process to end and the state to go on from is stored.
    """
    watchdog = Watchdog(config.train.hang_timeout_s, host, folder)
    with (
        numerics(host.device, exact=config.exact),
        watchdog,
        Saver(config.train.checkpoint_every, host, folder) as saver,
    ):
        for stage in stages_of(config):
            until = min(stage.until, config.train.stop_epoch or stage.until)
            _train(stage.config, data, host, folder, watchdog, saver, until)


def _train(
    config: Config, data: Data, host: Host, folder: RunFolder, watchdog: Watchdog, saver: Saver, until: int
) -> None:
    """One stage: what it begins with is the state that the one before has stored."""
    cfg = config.train
    if config.model.normalize != "source":
        data = replace(data, matching=None)
    samples = training_samples(config, data)
    order = EpochOrder(samples.num_samples, config.run.seed, chunk_rows=CHUNK_ROWS)
    steps = Steps(order.num_rows, cfg.batch_size, host.world_size)
    state = newest_checkpoint(host, folder)
    if state is not None and state["epoch"] >= until < cfg.epochs:
        return
    # rank 0 alone reads pretrained weights: its model is what all ranks start with
    learner = Learner(config, data, host, steps, load_weights=state is None and host.rank == 0)
    recorder = Recorder(config, data, folder, learner.loss)
    place, taken = Place(0, steps), None
    rejects: dict[int, Reject] = {}  # by manifest row: an image is met in every epoch
    same_data = digest(data)
    if state is not None:
        _check_same(config, folder, state, same_data, learner.where)
        place, taken, rejects = place_of(state, steps), taken_of(state, host.rank, host.world_size), rejects_of(state)
        learner.load_state(state)
        recorder.load_state(state["recorder"])
        if host.rank == 0:
            host.tell({"event": "note", "text": _guarantee(config, state, place)})
        del state
    if recorder.is_finished:
        return
    pictured = config.track.pictures and host.rank == 0 and place == Place(0, steps)
    pictures = Pictures(config, data, folder, learner) if pictured else None
    schedule = Schedule(data.parts["train"], data.parts["val"], samples, order, steps, host.rank, place, until)
    stream = to_device(host.feed(data.source, schedule), data, host.device)
    if host.rank == 0:
        host.tell({"event": "note", "text": f"training on {learner.where}"})
    clock = Clock()

    def state_at(place: Place, parts: list[Taken]) -> dict[str, Any]:
        facts = {"data": same_data, "where": learner.where, "recorder": recorder.state()}
        return {**place_state(place, parts, rejects), **facts, **learner.state()}

    while place.epoch < until:
        epoch, cut = place.epoch, place.steps
        learner.begin_epoch(epoch, cut)
        tally, found = Tally(host.device, MAX_SCORED // host.world_size), Watcher()
        if taken is not None:
            tally.load(taken)
            taken = None
        clock.start()
        for step in range(place.step, cut.per_epoch):
            device_batch = clock.wait_for(stream)
            watchdog.beat()
            batch = device_batch.batch
            assert (batch.kind, batch.epoch, batch.step) == ("train", epoch, step), "batches came out of order"
            if batch.rejects:
                _note(config, data, rejects, batch.rejects)
            if pictures and (epoch, step) == (0, 0):
                pictures.begin(device_batch)
            losses_B, logits_BK = learner.learn(device_batch, epoch, step)
            tally.add(batch.rows_B, losses_B, logits_BK)
            if host.rank == 0 and clock.due(batch.step_size):
                _check_finite(learner.failed_at)
                done = epoch * order.num_rows + cut.step(step)[1]
                loss = float(losses_B.mean()) if len(losses_B) else 0.0
                host.tell({"event": "step", "epoch": epoch, "images": done, "loss": loss, **clock.numbers()})
            _, first, last = cut.group(step, cfg.accumulate)
            if step == last and saver.wanted(first, step + 1):
                now = Place(epoch, cut, step + 1)
                shares = host.gather((tally.taken(), learner.failed_at, rejects))
                _check_finite(*(share[1] for share in shares))
                for share in shares:
                    rejects |= share[2]
                if host.rank == 0:
                    saver.save(now, state_at(now, [share[0] for share in shares]))
                if saver.is_last:
                    saver.finish()
                    reason = f"stopped on request in epoch {epoch + 1}, after {now.samples_seen:,} of its images"
                    host.tell({"event": "note", "text": f"{reason}; run.resume=true goes on from here"})
                    raise Stopped(reason)
        if host.device.type == "cuda":
            torch.cuda.synchronize()
        clock.stop()

        learner.end_epoch(epoch)
        for _ in range(len(schedule.validation)):
            device_batch = next(stream)
            watchdog.beat()
            found.add(device_batch.batch.rows_B, learner.predict(device_batch.images_BCSS))
            _note(config, data, rejects, device_batch.batch.rejects)
        gathered = host.gather((tally.taken(), storage.take_retries(), learner.failed_at, found.take(), rejects))
        parts, retries, failed_at, validated, all_rejects = zip(*gathered, strict=True)
        _check_finite(*failed_at)
        for some in all_rejects:
            rejects |= some
        place = Place(epoch + 1, steps)
        metrics: dict[str, Any] = {}
        if host.rank == 0:
            saver.finish()
            numbers = {
                "train_loss": sum(part.loss_sum for part in parts) / max(sum(part.num_images for part in parts), 1),
                "num_samples": sum(part.num_images for part in parts),
                "lr": learner.lr,
                "storage_retries": sum(retries),
                **clock.numbers(),
            }
            seen = Seen.join([part.seen for part in parts])
            metrics = recorder.end_epoch(epoch + 1, learner.kept, seen, Seen.join(validated), rejects, numbers)
            folder.save_checkpoint(place.epoch, state_at(place, []))
            host.tell({"event": "epoch", **metrics})
            if reason := folder.undeleted():
                host.tell({"event": "note", "text": reason})
            if pictures and epoch == 0:
                for problem in pictures.finish():
                    host.tell({"event": "note", "text": problem})
        host.end_epoch(metrics)
        watchdog.beat()
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


def _check_same(config: Config, folder: RunFolder, state: dict[str, Any], data: str, where: str) -> None:
    """Raises InputError if going on would not be going on: other images, or with run.exact another machine."""
    if state["data"] != data:
        raise InputError(
            f"{folder.uri}: the images, their labels or their parts are not those the run began with - bring them "
            "back, or start a run of another run.name"
        )
    if config.run.exact and state["where"] != where:
        raise InputError(
            f"run.exact=true: the run was on {state['where']}, and would go on on {where} - go on where it was, "
            "or start it without run.exact"
        )


def _guarantee(config: Config, state: dict[str, Any], place: Place) -> str:
    """What a resumed run promises, in a line."""
    where = f"after {place.epoch} epoch{'s' * (place.epoch != 1)}" + (
        f" and {n:,} images of the next" if (n := place.samples_seen) else ""
    )
    promise = "every epoch still has each of its samples once"
    if config.run.exact:
        return f"going on {where}; {promise}, and the result is bit for bit that of a run never stopped"
    if state["world_size"] != place.steps.world_size:
        return f"going on {where}; {promise}, in batches for {place.steps.world_size} workers"
    return f"going on {where}; {promise}, in the same batches (run.exact=true: with the same bits)"


def _note(config: Config, data: Data, rejects: dict[int, Reject], new: list[Reject]) -> None:
    before = len(rejects)
    rejects |= {reject.row: reject for reject in new}
    if len(rejects) > before:
        check_rejects(config, data, list(rejects.values()))


def _check_finite(*failed_at: int) -> None:
    if failed := [number for number in failed_at if number >= 0]:
        epoch, step = divmod(min(failed), STEPS)
        raise InputError(
            f"the loss is not a finite number in epoch {epoch + 1}, step {step + 1}: lower optim.lr, set "
            "optim.clip_norm, or look at the data"
        )
