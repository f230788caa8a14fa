"""Gradients of the losses: right, finite, alive where the model is badly wrong, and enough to learn from."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpa_ray.config import LossConfig
from hpa_ray.loss import LOSSES, ClassificationLoss, build_loss
from hpa_ray.loss.weighting import WEIGHTINGS

# B images, K classes

NUM_IMAGES = 200
COUNTS = np.array([90, 30, 9, 2])
OVER_EPOCHS = [*((name, 0) for name in LOSSES), ("bce_soft_f1_alternating", 1)]
BATCH_LOSSES = {("soft_f1", 0), ("lovasz_hinge", 0), ("bce_soft_f1_alternating", 1)}
every_loss = pytest.mark.parametrize(("name", "epoch"), OVER_EPOCHS)
every_weighting = pytest.mark.parametrize("weighting", sorted(WEIGHTINGS))


def loss_of(name: str, **settings: Any) -> ClassificationLoss:
    cfg = LossConfig.model_validate({"name": name, **settings})
    return build_loss(cfg, class_counts_K=COUNTS, num_images=NUM_IMAGES)


def example(num_images: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits_BK = torch.randn(num_images, len(COUNTS), dtype=torch.float64, generator=generator) * 2
    targets_BK = (torch.rand(num_images, len(COUNTS), generator=generator) < 0.4).double()
    targets_BK[:, 3] = 0  # a class the batch lacks
    targets_BK[0] = 0  # an image without any
    return logits_BK, targets_BK


@pytest.mark.parametrize("weight_on", ["both", "positives"])
@every_weighting
@every_loss
def test_gradients_are_those_of_finite_differences(name: str, epoch: int, weighting: str, weight_on: str) -> None:
    loss = loss_of(
        name,
        weighting=weighting,
        weight_on=weight_on,
        logit_adjustment=0.7,
        label_smoothing=0.1,
        asl_gamma_positive=0.5,
    )
    logits_BK, targets_BK = example()
    mixed_BK = 0.7 * targets_BK + 0.3 * targets_BK.flip(0)
    logits_BK.requires_grad_()
    for targets in (targets_BK, mixed_BK):
        assert loss(logits_BK, targets, epoch=epoch).dtype == torch.float64
        assert torch.autograd.gradcheck(lambda z, t=targets: loss(z, t, epoch=epoch), (logits_BK,))


@every_weighting
@every_loss
def test_autocast_changes_nothing_and_warns_of_nothing(name: str, epoch: int, weighting: str) -> None:
    loss = loss_of(name, weighting=weighting, logit_adjustment=1.0, label_smoothing=0.1)
    model = torch.nn.Linear(4, len(COUNTS))
    torch.nn.init.eye_(model.weight), torch.nn.init.zeros_(model.bias)
    images_BF, targets_BK = (some.float() for some in example(8))
    with torch.autocast("cpu", torch.bfloat16):
        logits_BK = model(images_BF)
        losses_B = loss(logits_BK, targets_BK, epoch=epoch)
        (losses_B.sum() / 8).backward()
    assert logits_BK.dtype == torch.bfloat16
    assert losses_B.dtype == torch.float32
    assert torch.equal(losses_B, loss(logits_BK.float(), targets_BK, epoch=epoch))
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_loss
def test_logits_of_half_precision_are_not_rounded_again(name: str, epoch: int, dtype: torch.dtype) -> None:
    logits_BK, targets_BK = (example(50)[0] * 5).to(dtype), example(50)[1].to(dtype)
    loss = loss_of(name)
    assert torch.equal(loss(logits_BK, targets_BK, epoch=epoch), loss(logits_BK.float(), targets_BK, epoch=epoch))


@pytest.mark.parametrize("asl_shift", [0.0, 0.05])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 4.0])
@every_loss
def test_values_and_gradients_stay_finite_at_any_logit(
    name: str, epoch: int, exponent: float, asl_shift: float
) -> None:
    loss = loss_of(
        name,
        focal_gamma=exponent,
        asl_gamma_negative=exponent,
        asl_gamma_positive=exponent,
        asl_shift=asl_shift,
        logit_adjustment=1.0,
    )
    values = torch.tensor([-1e4, -200.0, -95.0, -60.0, -1e-7, 0.0, 1e-7, 17.0, 60.0, 95.0, 200.0, 1e4])
    for target in (0.0, 1e-30, 0.4, 1.0):
        logits_BK = values[:, None].repeat(1, len(COUNTS)).requires_grad_()
        losses_B = loss(logits_BK, torch.full(logits_BK.shape, target), epoch=epoch)
        losses_B.sum().backward()
        assert torch.isfinite(losses_B).all()
        assert (losses_B >= 0).all()
        assert logits_BK.grad is not None
        assert torch.isfinite(logits_BK.grad).all()


def slope(loss: ClassificationLoss, epoch: int, logit: float, target: float) -> float:
    """Of one image with one class, times the number of classes: -1 and 1 with cross-entropy."""
    logits_BK = torch.full((1, len(COUNTS)), -1e3)
    logits_BK[0, 1] = logit
    logits_BK.requires_grad_()
    targets_BK = torch.zeros(1, len(COUNTS))
    targets_BK[0, 1] = target
    loss(logits_BK, targets_BK, epoch=epoch).sum().backward()
    assert logits_BK.grad is not None
    return logits_BK.grad[0, 1].item() * len(COUNTS)


@every_loss
def test_a_badly_missed_label_keeps_its_gradient(name: str, epoch: int) -> None:
    """-1 in all of them, times the weight of the image in distribution_balanced (here the largest, 1.1)."""
    expected = -1.1 if name == "distribution_balanced" else -1
    assert slope(loss_of(name), epoch, -60, 1) == pytest.approx(expected, rel=0.01)


@every_loss
def test_a_label_invented_for_sure_keeps_its_gradient(name: str, epoch: int) -> None:
    """1 in all of them; but asl with a shift takes it for a wrong label, and says so by its definition."""
    expected = {"distribution_balanced": 1.1, "asl": 0}.get(name, 1)
    assert slope(loss_of(name), epoch, 60, 0) == pytest.approx(expected, rel=0.01, abs=1e-6)
    if name == "asl":
        assert slope(loss_of(name, asl_shift=0), epoch, 60, 0) == pytest.approx(1, rel=0.01)


@every_loss
def test_one_missed_among_many_right_keeps_its_gradient(name: str, epoch: int) -> None:
    """Not less than with cross-entropy; losses over the batch give it B / n times that and more."""
    targets_BK = torch.zeros(16, len(COUNTS))
    targets_BK[:3, 1] = 1
    logits_BK = torch.where(targets_BK > 0, 20.0, -20.0)
    logits_BK[0, 1] = -60
    logits_BK.requires_grad_()
    loss_of(name)(logits_BK, targets_BK, epoch=epoch).sum().backward()
    assert logits_BK.grad is not None
    missed = logits_BK.grad[0, 1].item() * len(COUNTS)
    assert -16 <= missed <= (-3 if (name, epoch) in BATCH_LOSSES else -0.99)


@pytest.mark.parametrize("weighting", ["none", "sqrt_inverse"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_learns_rare_classes(name: str, weighting: str) -> None:
    generator = torch.Generator().manual_seed(0)
    targets_NK = (torch.rand(NUM_IMAGES, 4, generator=generator) < torch.tensor(COUNTS / NUM_IMAGES)).float()
    targets_NK[:2, 3] = 1
    images_NF = targets_NK @ torch.randn(4, 12, generator=generator)
    images_NF += 0.05 * torch.randn(images_NF.shape, generator=generator)
    model = torch.nn.Linear(12, 4)
    torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
    loss = loss_of(name, weighting=weighting)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    for epoch in range(12):
        for rows in torch.randperm(NUM_IMAGES, generator=generator).view(-1, 25):
            optimizer.zero_grad()
            (loss(model(images_NF[rows]), targets_NK[rows], epoch=epoch).sum() / len(rows)).backward()
            optimizer.step()
    predicted_NK = (model(images_NF) > 0).float()
    f1_K = 2 * (predicted_NK * targets_NK).sum(0) / (predicted_NK + targets_NK).sum(0)
    assert f1_K.mean() > 0.9
