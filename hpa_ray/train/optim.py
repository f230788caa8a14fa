"""Optimizers, their groups of parameters, the learning rate of every step. Before: model. After: learner."""

import math
from typing import Any

import torch
from torch import nn

from hpa_ray.config import OptimConfig

CYCLE_WARMUP, CYCLE_START, CYCLE_END = 0.3, 1 / 25, 1 / 10_000


def build_optimizer(cfg: OptimConfig, model: nn.Module, head: nn.Module) -> torch.optim.Optimizer:
    """Groups of parameters with their own `factor` of the learning rate: the head 1, all else cfg.backbone_lr.

    Biases and the scales of normalisation layers (tensors of one axis) are not decayed: decay would pull a scale
    towards a dead channel, not towards a simpler function.
    """
    in_head = {id(parameter) for parameter in head.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}  # head and the rest apart: they may begin at other times
    for parameter in model.parameters():
        groups.setdefault((id(parameter) in in_head, parameter.ndim > 1), []).append(parameter)
    listed: list[dict[str, Any]] = []
    for (is_head, decayed), parameters in groups.items():
        factor, decay = 1.0 if is_head else cfg.backbone_lr, cfg.weight_decay if decayed else 0.0
        listed.append({"params": parameters, "factor": factor, "weight_decay": decay, "lr": cfg.lr * factor})
    # fused: one pass over the memory instead of one per operation
    if cfg.name == "sgd":
        return torch.optim.SGD(listed, lr=cfg.lr, momentum=cfg.momentum, nesterov=cfg.momentum > 0, fused=True)
    kind = torch.optim.Adam if cfg.name == "adam" else torch.optim.AdamW
    return kind(listed, lr=cfg.lr, fused=True)


def peak_learning_rate(cfg: OptimConfig, global_batch: float) -> float:
    """cfg.lr for the images that really make up an optimizer step, whatever workers there are.

    Linear: Goyal et al., "Accurate, large minibatch SGD", 2017; square root: Krizhevsky, "One weird trick", 2014, the
    usual rule for Adam.
    """
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[cfg.lr_scaling]
    return float(cfg.lr * (global_batch / cfg.lr_batch_size) ** power)


def learning_rate(cfg: OptimConfig, epochs: int, steps_per_epoch: int, step: float) -> float:
    """Learning rate, as a multiple of the highest, of an optimizer step counted from the start of the run.

    cosine: Loshchilov and Hutter, "SGDR", ICLR 2017, without restarts. one_cycle: Smith and Topin, "Super-convergence",
    2018, up and down along cosines, from 1/25 to 1 in 30 % of the run, then to 1/10000 of its start.
    """
    total = epochs * steps_per_epoch
    if cfg.schedule == "one_cycle":
        top = max(CYCLE_WARMUP * total - 1, 0.0)
        if step < top:
            return _cosine(CYCLE_START, 1.0, step / top)
        return _cosine(1.0, CYCLE_START * CYCLE_END, (step - top) / max(total - 1 - top, 1.0))
    warmup = cfg.warmup_epochs * steps_per_epoch if cfg.warmup_steps is None else cfg.warmup_steps
    warmup = min(warmup, total / 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if cfg.schedule == "step":
        return float(cfg.step_factor ** int(step / steps_per_epoch / cfg.step_epochs))
    if cfg.schedule == "constant":
        return 1.0
    return _cosine(1.0, 0.0, (step - warmup) / (total - warmup))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
