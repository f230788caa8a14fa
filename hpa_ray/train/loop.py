"""The training loop: one for every host. Before: stream, augment, model, loss. After: checkpoint, metrics.

All randomness is a value (order and draws by seed and epoch, learning rate by step), so the state to resume from is
the model, the optimizer and the number of finished epochs.
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpa_ray import storage
from hpa_ray.augment import SquareSymmetry
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config, OptimConfig
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.loss import LOSSES
from hpa_ray.model import Classifier, build_model
from hpa_ray.schema import Reject
from hpa_ray.shards import CHUNK_ROWS
from hpa_ray.stream import Data, EpochOrder, Schedule, Steps, check_rejects
from hpa_ray.stream.device import DeviceBatch, to_device
from hpa_ray.train.host import Host
from hpa_ray.train.record import Recorder, Validation

# B images, C stains, S side in px, K classes

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
TELL_EVERY_S = 1.0


def train(config: Config, data: Data, host: Host, folder: RunFolder) -> None:
    """Train from the newest checkpoint of the folder, or from the start, to train.epochs."""
    cfg = config.train
    order = EpochOrder(len(data.parts["train"]), config.run.seed, chunk_rows=CHUNK_ROWS)
    steps = Steps(order.num_rows, cfg.batch_size, host.world_size)
    mean, std = data.mean, data.std
    model = build_model(config.model.name, mean=mean, std=std, num_classes=NUM_CLASSES, seed=config.run.seed)
    model.to(host.device)
    optimizer = OPTIMIZERS[config.optim.name](
        model.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay
    )
    recorder = Recorder(config, data, folder)
    first_epoch = _restore(folder, model, optimizer, recorder)
    parallel = host.parallel(model)
    augment = SquareSymmetry(flip=config.augment.flip, quarter_turn=config.augment.quarter_turn)
    loss_of = LOSSES[config.loss.name]

    schedule = Schedule(data.parts["train"], data.parts["val"], order, steps, host.rank, first_epoch, cfg.epochs)
    stream = to_device(host.feed(data.source, schedule), data, host.device)
    clock = Clock()
    rejects: list[Reject] = []

    for epoch in range(first_epoch, cfg.epochs):
        parallel.train(), augment.train()
        totals = torch.zeros(2, dtype=torch.float64, device=host.device)  # loss summed over images, images
        clock.start()
        for step in range(steps.per_epoch):
            device_batch = clock.wait_for(stream)
            batch, images_BCSS, targets_BK, seeds_B = device_batch
            assert (batch.kind, batch.epoch, batch.step) == ("train", epoch, step), "batches came out of order"
            if batch.rejects:
                rejects += batch.rejects
                check_rejects(config, data, rejects)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.optim, cfg.epochs, steps.per_epoch, epoch * steps.per_epoch + step)
            losses_B = loss_of(parallel(augment(images_BCSS, seeds_B)), targets_BK)
            # gradients are averaged over ranks with equal weight, so a mean over the whole step needs this scale
            loss = losses_B.sum() * host.world_size / batch.step_size
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            totals += torch.stack([losses_B.detach().double().sum(), totals.new_tensor(len(losses_B))])
            if host.rank == 0 and clock.due(batch.step_size):
                note = {"loss": _finite(float(loss.detach()), epoch, step), "lr": optimizer.param_groups[0]["lr"]}
                host.tell({"event": "step", "epoch": epoch, "step": step, **clock.numbers(), **note})
        if host.device.type == "cuda":
            torch.cuda.synchronize()
        clock.stop()

        host.equalize(model)
        model.eval()
        ours = [_predict(model, next(stream)) for _ in range(len(schedule.validation))]
        rejects += [reject for _, _, some in ours for reject in some]
        check_rejects(config, data, rejects)
        totals_and_retries = [*totals.cpu().tolist(), storage.take_retries()]
        shares = host.gather((totals_and_retries, [(rows, logits) for rows, logits, _ in ours], rejects))
        loss_sum, num_images, num_retries = np.sum([sums for sums, _, _ in shares], axis=0)
        mean_loss = _finite(float(loss_sum / num_images), epoch, steps.per_epoch - 1)
        metrics: dict[str, Any] = {}
        if host.rank == 0:
            val = Validation.join([pair for _, pairs, _ in shares for pair in pairs])
            left_out = [reject for _, _, some in shares for reject in some]
            lr = optimizer.param_groups[0]["lr"]
            metrics = recorder.end_epoch(
                epoch + 1,
                model,
                val,
                left_out,
                {"train_loss": mean_loss, "lr": lr, "storage_retries": int(num_retries), **clock.numbers()},
            )
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "recorder": recorder.state()}
            folder.save_checkpoint(epoch + 1, {"epoch": epoch + 1, **state})
            host.tell({"event": "epoch", **metrics})
        host.end_epoch(metrics)


def learning_rate(optim: OptimConfig, epochs: int, steps_per_epoch: int, step: int) -> float:
    """Learning rate of a step counted from the start of the run: linear warm-up, then cosine to zero or constant.

    Cosine: Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts.
    """
    warmup = min(optim.warmup_epochs * steps_per_epoch, epochs * steps_per_epoch / 2)
    if step < warmup:
        return optim.lr * (step + 1) / (warmup + 1)
    if optim.schedule == "constant":
        return optim.lr
    done = (step - warmup) / (epochs * steps_per_epoch - warmup)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * done))


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


@torch.inference_mode()
def _predict(model: Classifier, device_batch: DeviceBatch) -> tuple[np.ndarray, np.ndarray, list[Reject]]:
    logits_BK: Tensor = model(device_batch.images_BCSS)
    return device_batch.batch.rows_B, logits_BK.float().cpu().numpy(), device_batch.batch.rejects


def _restore(folder: RunFolder, model: Classifier, optimizer: torch.optim.Optimizer, recorder: Recorder) -> int:
    """Load the newest checkpoint, if any; returns the number of finished epochs."""
    state = folder.load_checkpoint()
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    recorder.load_state(state["recorder"])
    return int(state["epoch"])


def _finite(loss: float, epoch: int, step: int) -> float:
    if not math.isfinite(loss):
        raise InputError(
            f"the loss is {loss} in epoch {epoch + 1}, step {step + 1}: lower optim.lr or look at the data"
        )
    return loss
