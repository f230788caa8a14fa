"""The mean of a model's weights along its way. Before: model. After: learner."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from hpa_ray.config import TrainConfig

M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    """An exponential moving average of every step (EMA) or the mean of the last epochs (SWA), buffers included.

    EMA: Polyak and Juditsky 1992; its decay grows as (1 + t) / (10 + t) up to what was asked for, or the first steps
    would weigh most in a short run. SWA: Izmailov et al., "Averaging weights leads to wider optima", UAI 2018; the
    batch statistics are averaged like weights, which spares the further pass over the data of the paper.
    """

    def __init__(self, cfg: TrainConfig, model: M) -> None:
        assert not (cfg.ema_decay and cfg.swa_epochs), "one average at a time"
        self.ema_decay, self.first_epoch = cfg.ema_decay, cfg.epochs - cfg.swa_epochs
        self.num_averaged = 0
        self._model: M | None = None
        if cfg.ema_decay or cfg.swa_epochs:
            self._model = copy.deepcopy(model).eval().requires_grad_(False)

    def after_step(self, model: M) -> None:
        if self.ema_decay:
            self._take(model, 1 - min(self.ema_decay, (1 + self.num_averaged) / (10 + self.num_averaged)))

    def after_epoch(self, model: M, epoch: int) -> None:
        if self._model is not None and not self.ema_decay and epoch >= self.first_epoch:
            self._take(model, 1 / (self.num_averaged + 1))

    def or_else(self, model: M) -> M:
        """What is validated and kept: the average if there is one yet, else the model itself."""
        return self._model if self._model is not None and self.num_averaged else model

    def state(self) -> dict[str, Any]:
        return {} if self._model is None else {"num": self.num_averaged, "model": self._model.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        if self._model is not None:
            self.num_averaged = int(state["num"])
            self._model.load_state_dict(state["model"])

    @torch.no_grad()
    def _take(self, model: M, share: float) -> None:
        assert self._model is not None
        ours, theirs = [*self._model.state_dict().values()], [*model.state_dict().values()]
        real = [number for number, tensor in enumerate(ours) if tensor.is_floating_point()]
        if self.num_averaged == 0:
            share = 1.0
        torch._foreach_lerp_([ours[k] for k in real], [theirs[k] for k in real], share)
        for number, tensor in enumerate(ours):
            if not tensor.is_floating_point():  # the count of batches seen
                tensor.copy_(theirs[number])
        self.num_averaged += 1
