"""Values of the losses against their definitions and other libraries; weights of the classes."""

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel
from timm.loss.distribution_balanced_loss import DistributionBalancedLoss
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from hpa_ray.config import LossConfig
from hpa_ray.labels import CLASS_TABLE, NUM_CLASSES
from hpa_ray.loss import LOSSES, ClassificationLoss, build_loss
from hpa_ray.loss.batch import lovasz_hinge, soft_f1
from hpa_ray.loss.weighting import WEIGHTINGS, class_weights, log_odds

# B images, K classes

quick = settings(deadline=None, max_examples=100)
REAL_COUNTS = np.array([count for _, count in CLASS_TABLE])
NUM_IMAGES = 31072


def loss_of(name: str, counts: Any = REAL_COUNTS, num_images: int = NUM_IMAGES, **settings: Any) -> ClassificationLoss:
    cfg = LossConfig.model_validate({"name": name, **settings})
    return build_loss(cfg, class_counts_K=np.asarray(counts), num_images=num_images)


def example(num_images: int = 40, *, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and targets with common, rare and missing classes and with images without any."""
    rng = np.random.default_rng(seed)
    targets = rng.random((num_images, NUM_CLASSES)) < np.geomspace(0.5, 0.005, NUM_CLASSES)
    targets[: num_images // 8] = False
    return torch.tensor(rng.normal(0, scale, targets.shape), dtype=torch.float32), torch.tensor(targets).float()


@st.composite
def batches(draw: st.DrawFn, max_images: int = 6, max_classes: int = 3) -> tuple[Tensor, Tensor]:
    shape = draw(st.tuples(st.integers(1, max_images), st.integers(1, max_classes)))
    logits = draw(hnp.arrays(np.float64, shape, elements=st.floats(-30, 30)))
    return torch.tensor(logits), torch.tensor(draw(hnp.arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0]))))


def test_the_names_are_those_of_the_settings() -> None:
    assert set(LOSSES) == set(get_args(LossConfig.model_fields["name"].annotation))
    assert set(WEIGHTINGS) == set(get_args(LossConfig.model_fields["weighting"].annotation))


# terms


@settings(deadline=None, max_examples=100)
@given(
    logits=st.lists(st.floats(-80, 80, width=32), min_size=NUM_CLASSES, max_size=NUM_CLASSES),
    targets=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=NUM_CLASSES, max_size=NUM_CLASSES),
)
def test_bce_equals_its_definition_in_float64(logits: list[float], targets: list[float]) -> None:
    logits_BK, targets_BK = torch.tensor([logits]), torch.tensor([targets])
    z, t = logits_BK.double().numpy(), targets_BK.double().numpy()
    expected = (t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)).mean(axis=1)
    loss = loss_of("bce")(logits_BK, targets_BK)
    assert loss.shape == (1,)
    assert loss.dtype == torch.float32
    assert loss.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    reference = torch.nn.BCEWithLogitsLoss()(logits_BK.double(), targets_BK.double())
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["bce", "focal", "asl", "distribution_balanced"])
def test_every_image_has_its_own_loss(name: str) -> None:
    logits_BK, targets_BK = example(5)
    alone = torch.cat([loss_of(name)(logits_BK[k : k + 1], targets_BK[k : k + 1]) for k in range(5)])
    assert torch.allclose(loss_of(name)(logits_BK, targets_BK), alone)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_equals_that_of_torchvision(gamma: float) -> None:
    logits_BK, targets_BK = example(scale=6)
    expected = sigmoid_focal_loss(logits_BK.double(), targets_BK.double(), alpha=-1, gamma=gamma).mean(dim=1)
    loss = loss_of("focal", focal_gamma=gamma)(logits_BK, targets_BK)
    assert torch.allclose(loss.double(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("negative", "positive", "shift"), [(4, 0, 0.05), (4, 1, 0.05), (2, 0.5, 0.2), (0.5, 2, 0), (0, 0, 0), (0, 0, 0.1)]
)
def test_asl_equals_that_of_timm_where_that_is_accurate(negative: float, positive: float, shift: float) -> None:
    logits_BK, targets_BK = example(scale=3)  # timm clamps probabilities at 1e-8
    oracle = AsymmetricLossMultiLabel(gamma_neg=negative, gamma_pos=positive, clip=shift, reduction="none")
    ours = loss_of("asl", asl_gamma_negative=negative, asl_gamma_positive=positive, asl_shift=shift)
    losses, slopes = [], []
    for of in (oracle, ours):
        leaf = logits_BK.clone().requires_grad_()
        losses_B = of(leaf, targets_BK)
        losses.append(losses_B.mean(dim=1) if of is oracle else losses_B)
        slopes.append(torch.autograd.grad(losses[-1].sum(), leaf)[0])
    assert torch.allclose(losses[0], losses[1], rtol=1e-4, atol=1e-6)
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-3, atol=1e-6)  # timm too lets the focusing factor carry it


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_distribution_balanced_equals_that_of_timm(gamma: float) -> None:
    logits_BK, targets_BK = example()
    assert not targets_BK.any(dim=1).all()  # images without a label are in it
    oracle = DistributionBalancedLoss(
        REAL_COUNTS.tolist(), NUM_IMAGES, focal_gamma=gamma, focal_balance=1.0, reduction="none"
    )
    ours = loss_of("distribution_balanced", focal_gamma=gamma)
    for targets in (targets_BK, targets_BK * 0.7 + targets_BK.flip(0) * 0.3):
        assert torch.allclose(ours(logits_BK, targets), oracle(logits_BK, targets).mean(dim=1), rtol=1e-4, atol=1e-7)


def test_distribution_balanced_by_hand() -> None:
    # counts 10 and 90 of 100; an image of both: r = (1/10) / (1/10 + 1/90) = 0.9 and 0.1; of none: weight 1.1
    loss = loss_of("distribution_balanced", [10, 90], 100, focal_gamma=0)
    bias = 0.025 * np.log(9)  # kappa / lambda x log odds
    pairs = [([1.0, 1.0], [0.9, 0.1]), ([0.0, 1.0], [9.0, 1.0]), ([0.0, 0.0], [np.inf, np.inf])]
    for targets, ratios in pairs:
        expected = 0.0
        for k, (target, ratio) in enumerate(zip(targets, ratios, strict=True)):
            weight = 0.1 + 1 / (1 + np.exp(-10 * (ratio - 0.2)))
            logit = 0.3 + (-bias, bias)[k]
            expected += weight * (np.logaddexp(0, -logit) if target else np.logaddexp(0, 2 * logit) / 2) / 2
        got = loss(torch.full((1, 2), 0.3, dtype=torch.float64), torch.tensor([targets]))
        assert got.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["bce", "focal", "asl", "distribution_balanced"])
def test_soft_targets_blend_the_two_halves(name: str) -> None:
    loss = loss_of(name, [5], 10)
    logits_BK = torch.tensor([[-1.3]], dtype=torch.float64)
    present, absent, mixed = (loss(logits_BK, torch.tensor([[t]])) for t in (1.0, 0.0, 0.3))
    if name == "distribution_balanced":  # r is 1 for the whole label, 1 / 0.3 for part of it, infinite without any
        present = present * 1.1 / (0.1 + torch.sigmoid(torch.tensor(8.0)))
    assert mixed.item() == pytest.approx(0.3 * present.item() + 0.7 * absent.item(), rel=1e-5)


# losses over the batch


@given(batches())
@quick
def test_soft_f1_bounds_one_minus_f1(batch: tuple[Tensor, Tensor]) -> None:
    logits_BK, targets_BK = batch
    p, count_K = torch.sigmoid(logits_BK), targets_BK.sum(dim=0)
    f1 = 2 * (targets_BK * p).sum(dim=0) / (p.sum(dim=0) + count_K)
    loss_K = soft_f1(logits_BK, targets_BK)
    present = count_K > 0
    assert (loss_K >= -1e-12).all()
    assert (loss_K >= 1 - f1 - 1e-9)[present].all()
    assert (loss_K >= -torch.log(f1) - 1e-9)[present].all()
    cross_entropy_K = torch.nn.functional.softplus(logits_BK).mean(dim=0)
    assert torch.allclose(loss_K[~present], cross_entropy_K[~present])


def test_soft_f1_is_that_of_sure_predictions() -> None:
    targets_BK = torch.tensor([[1.0], [1.0], [0.0], [0.0]], dtype=torch.float64)
    right = 80 * targets_BK - 40
    assert soft_f1(right, targets_BK).item() == pytest.approx(0, abs=1e-12)
    # all present ones at p = 0.5, so the geometric mean is the arithmetic one: F1 = 2 x 1 / (1 + 2)
    half = 40 * targets_BK - 40
    assert soft_f1(half, targets_BK).item() == pytest.approx(-np.log(2 / 3))


def test_soft_f1_falls_with_every_step_towards_the_truth() -> None:
    logits_BK, targets_BK = example(30)
    leaf = logits_BK.clone().requires_grad_()
    slope_BK = torch.autograd.grad(soft_f1(leaf, targets_BK).sum(), leaf)[0]
    assert (slope_BK[targets_BK == 1] < 0).all()
    assert (slope_BK[targets_BK == 0] > 0).all()


def test_soft_f1_has_no_step_where_a_class_appears() -> None:
    logits_BK = example(6)[0][:, :1].double()
    values = [soft_f1(logits_BK, torch.full((6, 1), t, dtype=torch.float64)).item() for t in (0.0, 1e-300, 1e-9, 1e-6)]
    assert values == pytest.approx([values[0]] * 4, abs=1e-3)
    assert torch.isfinite(soft_f1(logits_BK.float(), torch.full((6, 1), 1e-44))).all()


def jaccard_loss(truth: frozenset[int], wrong: frozenset[int]) -> float:
    predicted = truth ^ wrong
    return 1 - len(truth & predicted) / len(truth | predicted) if truth | predicted else 0.0


def lovasz_extension(truth: frozenset[int], errors: np.ndarray) -> float:
    """By its Moebius form over all subsets: sum of a(S) min(errors in S), a(S) = sum of (-1)^|S - T| loss(T)."""

    def subsets(of: frozenset[int]) -> list[frozenset[int]]:
        return [frozenset(some) for size in range(len(of) + 1) for some in itertools.combinations(sorted(of), size)]

    total = 0.0
    for some in subsets(frozenset(range(len(errors))))[1:]:
        coefficient = sum((-1) ** (len(some) - len(part)) * jaccard_loss(truth, part) for part in subsets(some))
        total += coefficient * errors[sorted(some)].min()
    return total


@given(batches(max_images=5, max_classes=2))
@quick
def test_lovasz_hinge_is_the_extension_of_the_jaccard_loss(batch: tuple[Tensor, Tensor]) -> None:
    logits_BK, targets_BK = batch
    for k, loss in enumerate(lovasz_hinge(logits_BK, targets_BK).tolist()):
        errors = (1 - logits_BK * (2 * targets_BK - 1)).relu()[:, k].numpy()
        truth = frozenset(np.flatnonzero(targets_BK[:, k]).tolist())
        rest = frozenset(range(len(errors))) - truth
        assert loss == pytest.approx((lovasz_extension(truth, errors) + lovasz_extension(rest, errors)) / 2, abs=1e-9)


def test_losses_over_the_batch_stand_at_every_image() -> None:
    logits_BK, targets_BK = example(9)
    for name, of in (("soft_f1", soft_f1), ("lovasz_hinge", lovasz_hinge)):
        losses_B = loss_of(name)(logits_BK, targets_BK)
        assert losses_B.shape == (9,)
        assert torch.allclose(losses_B, of(logits_BK, targets_BK).mean().expand(9))


def test_alternating_is_bce_then_soft_f1() -> None:
    batch = example()
    for train in (True, False):
        alternating = loss_of("bce_soft_f1_alternating").train(train)
        for epoch in range(4):
            expected = loss_of(("bce", "soft_f1")[epoch % 2])(*batch)
            assert torch.equal(alternating(*batch, epoch=epoch), expected)
        assert torch.equal(alternating(*batch), alternating(*batch, epoch=0))


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_batch_has_no_losses_and_no_gradient(name: str) -> None:
    for epoch in (0, 1):
        logits_BK = torch.empty(0, NUM_CLASSES, requires_grad=True)
        losses_B = loss_of(name)(logits_BK, torch.empty(0, NUM_CLASSES), epoch=epoch)
        losses_B.sum().backward()
        assert losses_B.shape == (0,)


# weights


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("none", [1, 1, 1]),
        ("inverse", [4, 2, 1]),
        ("sqrt_inverse", [2, np.sqrt(2), 1]),
        ("effective_number", [0.1 / (1 - 0.9**10), 0.1 / (1 - 0.9**20), 0.1 / (1 - 0.9**40)]),
        ("gentle", [0.81, 0.64, 0.36]),
    ],
)
def test_weights_by_hand(weighting: Any, expected: list[float]) -> None:
    cfg = LossConfig(weighting=weighting, effective_number_beta=0.9)
    weights_K = class_weights(cfg, np.array([10, 20, 40]), 100)
    assert weights_K == pytest.approx(np.array(expected) / np.mean(expected))


def test_effective_number_of_the_real_table() -> None:
    weights_K = class_weights(LossConfig(weighting="effective_number", weight_clip=1e6), REAL_COUNTS, NUM_IMAGES)
    assert weights_K[27] / weights_K[0] == pytest.approx(659, abs=1)


@given(
    counts=hnp.arrays(np.int64, st.integers(1, 30), elements=st.sampled_from([0, 1, 40, 100]) | st.integers(0, 100)),
    weighting=st.sampled_from(sorted(WEIGHTINGS)),
    clip=st.floats(1, 100),
    beta=st.sampled_from([0.0, 0.9, 0.9999, 1 - 1e-12]),
)
@quick
def test_weights_have_a_mean_of_1_and_keep_to_the_clip(
    counts: np.ndarray, weighting: Any, clip: float, beta: float
) -> None:
    cfg = LossConfig(weighting=weighting, weight_clip=clip, effective_number_beta=beta)
    weights_K = class_weights(cfg, counts, 100)
    assert np.isfinite(weights_K).all()
    assert weights_K.mean() == pytest.approx(1)
    assert weights_K.max() <= clip * weights_K.min() * (1 + 1e-9)
    assert (weights_K[counts == 0] == weights_K.max()).all()
    by_count = weights_K[counts > 0][np.argsort(counts[counts > 0], kind="stable")]
    assert (np.diff(by_count) <= 1e-6 * weights_K.max()).all()  # the rarer, the heavier (to rounding at beta near 1)


@pytest.mark.parametrize("name", ["bce", "focal", "asl", "distribution_balanced"])
def test_weights_on_positives_leave_absent_classes_alone(name: str) -> None:
    logits_BK, targets_BK = example()
    weighted: dict[str, Any] = {"weighting": "inverse", "weight_clip": 4.0}
    plain, both, positives = (loss_of(name, **some) for some in ({}, weighted, {**weighted, "weight_on": "positives"}))
    for k in (0, 5, 27):
        only = torch.full_like(logits_BK, -1e4)  # no other class costs anything
        only[:, k] = logits_BK[:, k]
        for present in (0.0, 1.0):
            targets = torch.zeros_like(targets_BK)
            targets[:, k] = present
            reference = plain(only, targets)
            weight = both.weight_K[k]
            assert torch.allclose(both(only, targets), weight * reference, rtol=1e-5)
            assert torch.allclose(positives(only, targets), (weight if present else 1) * reference, rtol=1e-5)


@pytest.mark.parametrize("name", ["soft_f1", "lovasz_hinge"])
def test_losses_over_the_batch_are_weighed_as_a_whole(name: str) -> None:
    logits_BK, targets_BK = example()
    of = {"soft_f1": soft_f1, "lovasz_hinge": lovasz_hinge}[name]
    for weight_on in ("both", "positives"):
        loss = loss_of(name, weighting="sqrt_inverse", weight_on=weight_on)
        expected = (loss.weight_K * of(logits_BK, targets_BK)).mean()
        assert torch.allclose(loss(logits_BK, targets_BK), expected.expand(len(logits_BK)))


# adjustment, smoothing, eval mode


@pytest.mark.parametrize("name", LOSSES)
def test_logit_adjustment_is_for_training_only(name: str) -> None:
    logits_BK, targets_BK = example()
    adjusted, plain = loss_of(name, logit_adjustment=1.5), loss_of(name)
    shift_K = torch.tensor(1.5 * np.log(REAL_COUNTS / (NUM_IMAGES - REAL_COUNTS)), dtype=torch.float32)
    assert torch.allclose(adjusted(logits_BK, targets_BK), plain(logits_BK + shift_K, targets_BK), rtol=1e-4)
    assert torch.equal(adjusted.eval()(logits_BK, targets_BK), plain(logits_BK, targets_BK))


def test_log_odds_are_finite_for_classes_of_no_or_every_image() -> None:
    assert log_odds(np.array([0, 50, 100]), 100) == pytest.approx(np.log([0.5 / 99.5, 1, 99.5 / 0.5]))
    assert log_odds(np.array([0, 1]), 1) == pytest.approx([0, 0])


def test_smoothing_moves_targets_in_training_only() -> None:
    logits_BK, targets_BK = example()
    smoothed, plain = loss_of("bce", label_smoothing=0.2), loss_of("bce")
    expected = plain(logits_BK, targets_BK * 0.8 + 0.1)
    assert torch.allclose(smoothed(logits_BK, targets_BK), expected, rtol=1e-5)
    assert torch.equal(smoothed.eval()(logits_BK, targets_BK), plain(logits_BK, targets_BK))
    oracle = DistributionBalancedLoss(
        REAL_COUNTS.tolist(), NUM_IMAGES, focal_balance=1.0, smoothing=0.2, reduction="none"
    )
    balanced = loss_of("distribution_balanced", label_smoothing=0.2)(logits_BK, targets_BK)
    assert torch.allclose(balanced, oracle(logits_BK, targets_BK).mean(dim=1), rtol=1e-4)  # weights by what is given
    for name in ("soft_f1", "lovasz_hinge"):
        assert torch.equal(loss_of(name, label_smoothing=0.2)(logits_BK, targets_BK), loss_of(name)(*example()))


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_training_images_is_no_trouble(name: str) -> None:
    counts = REAL_COUNTS.copy()
    counts[[3, 27]] = 0
    counts[0] = NUM_IMAGES
    loss = loss_of(name, counts, weighting="inverse", logit_adjustment=1.0)
    for epoch in (0, 1):
        assert torch.isfinite(loss(*example(), epoch=epoch)).all()


def test_nothing_of_the_loss_is_stored_but_it_moves() -> None:
    loss = loss_of("bce", weighting="inverse")
    assert not loss.state_dict()
    assert all(buffer.device.type == "meta" for buffer in loss.to("meta").buffers())
