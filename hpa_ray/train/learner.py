"""What learns: model, augmentation, loss, optimizer, averages; one call per batch. Before: augment, model, loss. After:
loop.

Knows nothing of where batches come from or of Ray: the host gives the device and averages gradients over the workers.
"""

import contextlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpa_ray.augment import build_augment
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.loss import build_loss
from hpa_ray.model import build_model
from hpa_ray.model.precision import autocast_dtype
from hpa_ray.stream import Data, Steps, sample_seeds
from hpa_ray.stream.device import DeviceBatch
from hpa_ray.train.average import Average
from hpa_ray.train.host import Host
from hpa_ray.train.optim import build_optimizer, learning_rate, peak_learning_rate

# B images, C stains, S side in px, K classes

STEPS = 2**32
"""More than an epoch has: a step of the run is told as epoch x STEPS + step."""


class Learner:
    """Calls, every epoch on every rank: begin_epoch, learn once per batch, end_epoch. steps: of a whole epoch."""

    def __init__(self, config: Config, data: Data, host: Host, steps: Steps, *, load_weights: bool = True) -> None:
        cfg = config.train
        self.config, self.host, self.steps, self.cut, self.device = config, host, steps, steps, host.device
        self.image_size = data.source.image_size
        self.sizes = _check_sizes(cfg.sizes, self.image_size)
        self.dtype = autocast_dtype(cfg.precision, self.device)
        self.model = build_model(
            config.model,
            channels=data.source.channels,
            image_size=self.image_size,
            mean=data.mean,
            std=data.std,
            num_classes=NUM_CLASSES,
            seed=config.run.seed,
            load_weights=load_weights,
        )
        for size in self.sizes[:-1]:
            self.model.check_image_size(size)
        if cfg.sync_batchnorm and host.world_size > 1:
            if self.device.type != "cuda":
                raise InputError("train.sync_batchnorm=true needs GPUs - torch has it for no other device")
            nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        channels_last = self.device.type == "cuda" if cfg.channels_last is None else cfg.channels_last
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(self.device).to(memory_format=self.memory_format)
        targets = data.targets_NK[data.parts["train"]]
        facts: Any = {"class_counts_K": targets.sum(axis=0, dtype=np.int64), "num_images": len(targets)}
        self.loss = build_loss(config.loss, **facts).to(self.device)
        self.augment = build_augment(config.augment, channels=data.source.channels, **facts).to(self.device)
        self.optimizer = build_optimizer(config.optim, self.model, self.model.head)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.average = Average(cfg, self.model)
        if cfg.compile and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise InputError("train.compile=true needs a C++ compiler such as g++ - install one or leave it out")
        self.lr = 0.0
        self._parallel: nn.Module | None = None  # gradients averaged over the workers
        self._forward: Callable[[Tensor], Tensor] = self.model  # that, perhaps compiled
        self._failed_at = torch.full((), -1, dtype=torch.int64, device=self.device)

    @property
    def where(self) -> str:
        """In words: device, workers, precision."""
        cpus = torch.get_num_threads()
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{cpus} CPU threads"
        return f"{self.host.world_size} x {device}, {str(self.dtype).removeprefix('torch.')}"

    @property
    def optimizer_steps(self) -> int:
        """Per epoch."""
        return self.steps.num_groups(self.config.train.accumulate)

    def begin_epoch(self, epoch: int, cut: Steps | None = None) -> None:
        """cut: the steps of this epoch, where they are not those of every epoch."""
        self.cut = cut or self.steps
        frozen, size = epoch < self.config.train.freeze_epochs, self._size(epoch)
        if self._parallel is None or frozen != self.model.frozen or size != self._size(epoch - 1):
            self.model.freeze(frozen)
            self._parallel = self.host.parallel(self.model)  # DDP learns only once which parameters have gradients
            self._forward = self._parallel
            if self.config.train.compile:
                torch.compiler.reset()  # for each size anew: kernels for any size are slower
                self._forward = torch.compile(self._parallel, dynamic=False)
        self.model.train(), self.augment.train(), self.loss.train()

    def learn(self, device_batch: DeviceBatch, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """One batch; an optimizer step after every train.accumulate of them -> losses (B,), logits (B, K), detached."""
        group, first, last = self.cut.group(step, self.config.train.accumulate)
        num_images = self.cut.step(last)[1] - self.cut.step(first)[0]
        # dropout and the like: by the place in the run, as all else that is random
        start = self.cut.step(step)[0]
        torch.manual_seed(int(sample_seeds(self.config.run.seed, epoch, start, start + 1)[0]) ^ self.host.rank)
        if step == first:
            before = self.optimizer_steps * self.cut.first / self.cut.num_rows  # of this epoch, cut otherwise
            self._set_learning_rate(epoch * self.optimizer_steps + before + group)
            self.optimizer.zero_grad(set_to_none=True)
        images, targets = self.prepared(device_batch, epoch)
        ddp = self._parallel if isinstance(self._parallel, nn.parallel.DistributedDataParallel) else None
        with ddp.no_sync() if ddp and step != last else contextlib.nullcontext():
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                logits_BK = self._call(images)
            losses_B = self.loss(logits_BK, targets, epoch=epoch)
            # gradients are averaged over ranks with equal weight, so a mean over the whole step needs this scale
            loss = losses_B.sum() * self.host.world_size / num_images
            torch.autograd.backward(self.scaler.scale(loss))
        number = epoch * STEPS + step
        self._failed_at = torch.where((self._failed_at < 0) & ~torch.isfinite(loss.detach()), number, self._failed_at)
        if step == last:
            self._optimize()
        return losses_B.detach(), logits_BK.detach()

    def prepared(self, device_batch: DeviceBatch, epoch: int) -> tuple[Tensor, Tensor]:
        """Images and targets as the model gets them: at the epoch's size, augmented."""
        images, size = device_batch.images_BCSS, self._size(epoch)
        if size != self.image_size:
            images = nn.functional.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        images, targets = self.augment(images, device_batch.targets_BK, device_batch.seeds_B)
        return images.contiguous(memory_format=self.memory_format), targets

    def _size(self, epoch: int) -> int:
        """Side in px of the training images of an epoch."""
        if not self.sizes:
            return self.image_size
        return self.sizes[max(epoch, 0) * len(self.sizes) // self.config.train.epochs]

    def end_epoch(self, epoch: int) -> None:
        """After the last batch: one model on all ranks, ready to be validated."""
        self.average.after_epoch(self.model, epoch)
        self.host.equalize(self.model)
        if self.kept is not self.model:
            self.host.equalize(self.kept)
        self.kept.eval(), self.loss.eval()

    @property
    def kept(self) -> Any:
        """The Classifier that is validated and stored: the average of the weights, if one is asked for."""
        return self.average.or_else(self.model)

    @torch.inference_mode()
    def predict(self, images_BCSS: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, K) float32 logits of the kept model."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = self.kept(images_BCSS.contiguous(memory_format=self.memory_format))
        return logits.float()

    @property
    def failed_at(self) -> int:
        """Epoch x STEPS + step of the first loss that was not finite; -1: none."""
        return int(self._failed_at)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.average.load_state(state["average"])

    def _call(self, images: Tensor) -> Tensor:
        try:
            return self._forward(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                "batch normalisation can not learn from a batch of one image at this size: give a larger "
                "train.batch_size or fewer workers, or larger images"
            ) from error

    def _set_learning_rate(self, step: float) -> None:
        peak = peak_learning_rate(self.config.optim, self.steps.num_rows / self.optimizer_steps)
        self.lr = peak * learning_rate(self.config.optim, self.config.train.epochs, self.optimizer_steps, step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["factor"]

    def _optimize(self) -> None:
        clip = self.config.optim.clip_norm
        if clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.after_step(self.model)


def _check_sizes(sizes: tuple[int, ...], image_size: int) -> tuple[int, ...]:
    if sizes and sizes[-1] != image_size:
        raise InputError(
            f"train.sizes = {','.join(map(str, sizes))}: the last must be the side of the data, {image_size} px"
        )
    return sizes
