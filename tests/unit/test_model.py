"""Augmentation, loss and classifiers: only symmetries, no vanishing gradient, weights that depend on the seed alone."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hpa_ray.augment import SquareSymmetry
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.loss import LOSSES, bce
from hpa_ray.model import ARCHITECTURES, build_model
from hpa_ray.stream.order import sample_seeds

# B images, C stains, S side in px, K classes

ROTATIONS = {f"turned {90 * k}": k for k in range(4)}
LETTER = torch.arange(2 * 3 * 3, dtype=torch.uint8).view(2, 3, 3)  # (C, S, S); no symmetry leaves it as it is


def symmetries(image: Tensor) -> dict[str, Tensor]:
    """The eight symmetries of the square, written with numpy's turns instead of the module's flips."""
    values = image.numpy()
    turned = {name: np.rot90(values, k, (1, 2)) for name, k in ROTATIONS.items()}
    mirrored = {f"mirrored, {name}": np.rot90(values[:, :, ::-1], k, (1, 2)) for name, k in ROTATIONS.items()}
    return {name: torch.from_numpy(result.copy()) for name, result in (turned | mirrored).items()}


def names_of(images: Tensor, original: Tensor = LETTER) -> list[str]:
    """Which symmetry each image is; fails for an image that is none or more than one."""
    known = symmetries(original)
    found = [[name for name, expected in known.items() if torch.equal(image, expected)] for image in images]
    assert all(len(names) == 1 for names in found)
    return [names[0] for names in found]


def augmented(seeds: Tensor, *, flip: bool = True, quarter_turn: bool = True) -> list[str]:
    module = SquareSymmetry(flip=flip, quarter_turn=quarter_turn).train()
    return names_of(module(LETTER.expand(len(seeds), -1, -1, -1), seeds))


# augmentation


@pytest.mark.parametrize(
    ("flip", "quarter_turn", "group"),
    [
        (True, True, set(symmetries(LETTER))),
        (True, False, {"turned 0", "mirrored, turned 0"}),
        (False, True, set(ROTATIONS)),
        (False, False, {"turned 0"}),
    ],
)
def test_the_draws_are_uniform_over_the_group(flip: bool, quarter_turn: bool, group: set[str]) -> None:
    """Over all values of the bits that are used, and over the seeds of real samples."""
    exact = Counter(augmented(torch.arange(8), flip=flip, quarter_turn=quarter_turn))
    assert exact == dict.fromkeys(group, 8 // len(group))
    num_draws = 4000
    for seed, epoch in ((0, 0), (0, 1), (17, 300)):
        seeds = torch.from_numpy(sample_seeds(seed, epoch, 0, num_draws))
        counts = Counter(augmented(seeds, flip=flip, quarter_turn=quarter_turn))
        assert counts.keys() == group
        share = 1 / len(group)
        for count in counts.values():  # 4.5 standard deviations of a fair draw
            assert abs(count / num_draws - share) <= 4.5 * (share * (1 - share) / num_draws) ** 0.5


def test_neighbours_and_epochs_draw_independently() -> None:
    num_draws = 4000
    here = augmented(torch.from_numpy(sample_seeds(3, 0, 0, num_draws)))
    beside = augmented(torch.from_numpy(sample_seeds(3, 0, 1, num_draws + 1)))
    later = augmented(torch.from_numpy(sample_seeds(3, 1, 0, num_draws)))
    for other in (beside, later):
        same = sum(a == b for a, b in zip(here, other, strict=True)) / num_draws
        assert abs(same - 1 / 8) < 4.5 * (1 / 8 * 7 / 8 / num_draws) ** 0.5


@settings(deadline=None, max_examples=50)
@given(
    num_images=st.integers(1, 6),
    num_stains=st.integers(1, 4),
    side=st.integers(1, 7),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.int64]),
    seed=st.integers(0, 10**6),
)
def test_pixels_are_moved_and_never_changed(
    num_images: int, num_stains: int, side: int, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_images, num_stains, side, side), generator=generator).to(dtype)
    seeds = torch.from_numpy(sample_seeds(seed, 0, 0, num_images))
    before = images.clone()
    result = SquareSymmetry(flip=True, quarter_turn=True).train()(images, seeds)
    assert result.dtype == dtype
    assert result.shape == images.shape
    assert torch.equal(images, before)
    for image, moved in zip(images, result, strict=True):
        assert any(torch.equal(moved, expected) for expected in symmetries(image).values())  # all stains alike


def test_a_draw_does_not_depend_on_the_batch() -> None:
    module = SquareSymmetry(flip=True, quarter_turn=True).train()
    images = torch.randint(0, 256, (40, 3, 5, 5), dtype=torch.uint8)
    seeds = torch.from_numpy(sample_seeds(1, 2, 0, 40))
    whole = module(images, seeds)
    order = torch.randperm(40)
    assert torch.equal(module(images[order], seeds[order]), whole[order])
    assert torch.equal(torch.cat([module(images[k : k + 7], seeds[k : k + 7]) for k in range(0, 40, 7)]), whole)


def test_in_eval_mode_nothing_moves() -> None:
    images = LETTER.expand(8, -1, -1, -1)
    module = SquareSymmetry(flip=True, quarter_turn=True).eval()
    assert torch.equal(module(images, torch.arange(8)), images)


def test_an_empty_batch_stays_empty() -> None:
    module = SquareSymmetry(flip=True, quarter_turn=True).train()
    assert module(torch.empty(0, 4, 8, 8, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)).shape == (0, 4, 8, 8)


# loss


@settings(deadline=None, max_examples=100)
@given(
    logits=st.lists(st.floats(-80, 80, width=32), min_size=NUM_CLASSES, max_size=NUM_CLASSES),
    classes=st.sets(st.integers(0, NUM_CLASSES - 1)),
)
def test_bce_equals_its_definition_in_float64(logits: list[float], classes: set[int]) -> None:
    logits_BK = torch.tensor([logits])
    targets_BK = torch.zeros(1, NUM_CLASSES)
    targets_BK[0, sorted(classes)] = 1
    z, y = logits_BK.double().numpy(), targets_BK.double().numpy()
    expected = (y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)).mean(axis=1)
    loss = bce(logits_BK, targets_BK)
    assert loss.shape == (1,)
    assert loss.dtype == torch.float32
    assert loss.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    reference = torch.nn.BCEWithLogitsLoss()(logits_BK.double(), targets_BK.double())
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5, abs=1e-7)


def test_every_image_has_its_own_loss() -> None:
    logits_BK = torch.randn(5, NUM_CLASSES)
    targets_BK = (torch.rand(5, NUM_CLASSES) > 0.8).float()
    alone = torch.cat([bce(logits_BK[k : k + 1], targets_BK[k : k + 1]) for k in range(5)])
    assert torch.allclose(bce(logits_BK, targets_BK), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_gradient_of_a_sure_mistake_does_not_vanish(name: str, dtype: torch.dtype) -> None:
    for logit, target, slope in ((-60.0, 1.0, -1.0), (60.0, 0.0, 1.0)):
        logits_BK = torch.full((1, NUM_CLASSES), logit, dtype=dtype, requires_grad=True)
        loss = LOSSES[name](logits_BK, torch.full((1, NUM_CLASSES), target))
        assert loss.dtype == torch.float32
        loss.sum().backward()
        assert logits_BK.grad is not None
        assert torch.isfinite(logits_BK.grad).all()
        assert logits_BK.grad.float() * NUM_CLASSES == pytest.approx(np.full((1, NUM_CLASSES), slope), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_logits_of_half_precision_are_not_rounded_again(name: str, dtype: torch.dtype) -> None:
    logits_BK = (torch.randn(100, NUM_CLASSES) * 10).to(dtype)
    targets_BK = (torch.rand(100, NUM_CLASSES) > 0.8).float()
    assert torch.equal(LOSSES[name](logits_BK, targets_BK), LOSSES[name](logits_BK.float(), targets_BK))


# model


def small_model(num_stains: int = 4, *, name: str = "resnet18", seed: int = 0) -> torch.nn.Module:
    return build_model(name, mean=[0.1] * num_stains, std=[0.2] * num_stains, num_classes=NUM_CLASSES, seed=seed)


@pytest.mark.parametrize(("num_stains", "side"), [(1, 32), (3, 32), (4, 45)])
def test_any_number_of_stains_and_any_size_go_in(num_stains: int, side: int) -> None:
    model = small_model(num_stains).eval()
    with torch.no_grad():
        logits_BK = model(torch.randint(0, 256, (2, num_stains, side, side), dtype=torch.uint8))
    assert logits_BK.shape == (2, NUM_CLASSES)
    assert logits_BK.dtype == torch.float32
    assert torch.isfinite(logits_BK).all()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_weights_depend_on_the_seed_alone(name: str) -> None:
    first = small_model(name=name, seed=3).state_dict()
    torch.rand(7)
    again, other = small_model(name=name, seed=3).state_dict(), small_model(name=name, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])
    assert not torch.equal(first["backbone.fc.weight"], other["backbone.fc.weight"])


@pytest.mark.parametrize("num_stains", [3, 4])
def test_building_a_model_leaves_global_randomness_as_it_was(num_stains: int) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index, union-attr]
    on_gpus = [torch.cuda.get_rng_state(k) for k in range(torch.cuda.device_count())]
    small_model(num_stains, seed=5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    assert before[2] == random.getstate()
    assert all(torch.equal(state, torch.cuda.get_rng_state(k)) for k, state in enumerate(on_gpus))


def normalised(model: torch.nn.Module, images: Tensor) -> Tensor:
    """What reaches the first layer."""
    seen: list[Tensor] = []
    handle = model.backbone.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[union-attr, operator, func-returns-value]
    with torch.no_grad():
        model(images)
    handle.remove()
    return seen[0]


@given(mean=st.lists(st.floats(0, 1), min_size=2, max_size=2), std=st.lists(st.floats(0.01, 1), min_size=2, max_size=2))
@settings(deadline=None, max_examples=5)
def test_each_stain_is_normalised_by_its_own_mean_and_std(mean: Sequence[float], std: Sequence[float]) -> None:
    model = build_model("resnet18", mean=mean, std=std, num_classes=NUM_CLASSES, seed=0).eval()
    images = torch.randint(0, 256, (2, 2, 16, 16), dtype=torch.uint8)
    expected = (images.double() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    assert torch.allclose(normalised(model, images).double(), expected, rtol=1e-3, atol=1e-3)


def test_a_black_stain_does_no_harm() -> None:
    model = build_model("resnet18", mean=[0.0, 0.1], std=[0.0, 0.2], num_classes=NUM_CLASSES, seed=0).eval()
    with torch.no_grad():
        assert torch.isfinite(model(torch.zeros(1, 2, 32, 32, dtype=torch.uint8))).all()


def test_a_batch_gives_what_its_images_give_alone() -> None:
    model = small_model().eval()
    images = torch.randint(0, 256, (3, 4, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        alone = torch.cat([model(images[k : k + 1]) for k in range(3)])
        assert torch.allclose(model(images), alone, atol=1e-5)
