"""Learning rates against torch's schedulers, groups of parameters, averages of weights."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from hpa_ray.config import OptimConfig, TrainConfig
from hpa_ray.train.average import Average
from hpa_ray.train.optim import build_optimizer, learning_rate, peak_learning_rate


def rates(cfg: OptimConfig, epochs: int, steps_per_epoch: int) -> list[float]:
    return [learning_rate(cfg, epochs, steps_per_epoch, step) for step in range(epochs * steps_per_epoch)]


def torch_rates(make: Any, num_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_is_torchs() -> None:
    ours = rates(OptimConfig(schedule="cosine", warmup_epochs=0), 6, 5)
    assert ours == pytest.approx(torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 30), 30))


def test_steps_are_torchs() -> None:
    ours = rates(OptimConfig(schedule="step", step_epochs=2, step_factor=0.3, warmup_epochs=0), 7, 5)
    assert ours == pytest.approx(torch_rates(lambda o: lr_scheduler.StepLR(o, 10, gamma=0.3), 35))


@pytest.mark.parametrize("num_steps", [10, 40, 101])
def test_one_cycle_is_torchs(num_steps: int) -> None:
    ours = rates(OptimConfig(schedule="one_cycle"), 1, num_steps)
    assert ours == pytest.approx(torch_rates(lambda o: lr_scheduler.OneCycleLR(o, 1.0, num_steps), num_steps))


@given(
    schedule=st.sampled_from(["cosine", "step", "one_cycle", "constant"]),
    epochs=st.integers(1, 9),
    steps_per_epoch=st.integers(1, 20),
    warmup_epochs=st.floats(0, 20),
    warmup_steps=st.none() | st.integers(0, 400),
)
def test_every_rate_is_between_nothing_and_the_highest(
    schedule: Any, epochs: int, steps_per_epoch: int, warmup_epochs: float, warmup_steps: int | None
) -> None:
    cfg = OptimConfig(schedule=schedule, warmup_epochs=warmup_epochs, warmup_steps=warmup_steps)
    found = rates(cfg, epochs, steps_per_epoch)
    assert all(0 <= rate <= 1 for rate in found)
    if schedule != "one_cycle":
        asked = warmup_epochs * steps_per_epoch if warmup_steps is None else warmup_steps
        warm = int(np.ceil(min(asked, len(found) / 2)))
        assert found[:warm] == sorted(found[:warm])
        assert found[warm:] == sorted(found[warm:], reverse=True)


def test_warm_up_by_steps_and_by_epochs_are_the_same() -> None:
    by_epochs = rates(OptimConfig(warmup_epochs=2), 8, 10)
    assert rates(OptimConfig(warmup_steps=20), 8, 10) == by_epochs
    assert by_epochs[19] == pytest.approx(20 / 21)


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_the_rate_follows_the_global_batch(scaling: Any, factor: float) -> None:
    cfg = OptimConfig(lr=0.01, lr_scaling=scaling, lr_batch_size=32)
    assert peak_learning_rate(cfg, 128) == pytest.approx(0.01 * factor)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_groups_hold_every_parameter_once_with_its_own_rate_and_decay(name: Any) -> None:
    net = Net()
    optimizer = build_optimizer(OptimConfig(name=name, lr=0.1, backbone_lr=0.25, weight_decay=0.5), net, net.head)
    groups = optimizer.param_groups
    found = {id(p): (group["factor"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == 6
    assert found[id(net.conv.weight)] == (0.25, 0.5)
    assert found[id(net.conv.bias)] == found[id(net.norm.weight)] == found[id(net.norm.bias)] == (0.25, 0)
    assert found[id(net.head.weight)] == (1, 0.5)
    assert found[id(net.head.bias)] == (1, 0)


def walk(net: nn.Module, seed: int) -> None:
    """Change all that a training step changes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor += 1


def test_swa_is_the_mean_of_the_last_epochs() -> None:
    net = Net()
    average = Average(TrainConfig(epochs=6, swa_epochs=3), net)
    states = []
    for epoch in range(6):
        walk(net, epoch)
        average.after_step(net)
        average.after_epoch(net, epoch)
        states.append(copy.deepcopy(net.state_dict()))
        if epoch < 3:
            assert average.or_else(net) is net
    found = average.or_else(net).state_dict()
    for name in ("conv.weight", "head.bias", "norm.running_var"):
        assert torch.allclose(found[name], torch.stack([state[name] for state in states[3:]]).mean(0), atol=1e-6)
    assert found["norm.num_batches_tracked"] == 6


def test_ema_follows_its_definition_and_warms_up() -> None:
    net = Net()
    average = Average(TrainConfig(ema_decay=0.3), net)
    expected = None
    for step in range(5):
        walk(net, step)
        average.after_step(net)
        decay = min(0.3, (1 + step) / (10 + step))
        value = net.head.weight.detach().clone()
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert expected is not None
    assert torch.allclose(average.or_else(net).head.weight, expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in average.or_else(net).parameters())


@pytest.mark.parametrize("settings", [{"ema_decay": 0.9}, {"swa_epochs": 4, "epochs": 4}])
def test_a_restored_average_goes_on_alike(settings: dict[str, Any]) -> None:
    net, cfg = Net(), TrainConfig(**settings)
    straight, stopped = Average(cfg, net), Average(cfg, net)
    for step in range(4):
        walk(net, step)
        if step == 2:
            resumed = Average(cfg, Net())
            resumed.load_state(copy.deepcopy(stopped.state()))
            stopped = resumed
        for average in (straight, stopped):
            average.after_step(net)
            average.after_epoch(net, step)
    states = [average.or_else(net).state_dict().values() for average in (straight, stopped)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_without_an_average_nothing_is_stored() -> None:
    assert Average(TrainConfig(), Net()).state() == {}
