"""Augmentation: each operation against a plain one on a single image, and that a draw is the sample's own affair."""

import contextlib
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as reference

from hpa_ray.augment import PRESETS, Amounts, Augment, SquareSymmetry, amounts_of, build_augment
from hpa_ray.augment.draws import Draws, DrawTable, Stream, mix, normal, uniform
from hpa_ray.augment.geometry import MOST_CUT_OFF, Warp, pixel_centres, smooth
from hpa_ray.augment.mixing import QUANTILES, Mixing, beta_quantiles
from hpa_ray.augment.pixels import Blackout, Blur, Intensity, Noise
from hpa_ray.channels import STAINS
from hpa_ray.config import AugmentConfig
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.stream.order import _mix, sample_seeds

# B images, C stains, S side in px, K classes

ROTATIONS = {f"turned {90 * k}": k for k in range(4)}
LETTER = torch.arange(2 * 3 * 3, dtype=torch.uint8).view(2, 3, 3)  # (C, S, S); no symmetry leaves it as it is
RARE = NUM_CLASSES - 1
COUNTS = np.array([100] * RARE + [1])
OPERATIONS = {
    "rotate_deg": 40.0, "scale": 0.3, "shift": 0.2, "shear_deg": 20.0, "crop": 0.5, "elastic": 0.03, "gain": 0.4,
    "gamma": 0.5, "contrast": 0.5, "blur": 1.5, "noise": 0.1, "stain_dropout": 0.5, "cutout": 0.8, "mixup": 1.0,
    "cutmix": 1.0,
}  # fmt: skip
MIXING = {"mixup", "cutmix"}


def make(cfg: dict[str, Any], channels: Sequence[str] = STAINS) -> Augment:
    """A preset of none with these keys above it, in training."""
    made = AugmentConfig.model_validate({"preset": "none", **cfg})
    return build_augment(made, channels=channels, class_counts_K=COUNTS, num_images=1000).train()


def make_images(num_images: int, *, side: int = 32, num_stains: int = 4, seed: int = 0) -> Tensor:
    """Smooth blobs on black with noise, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_images, num_stains, 6, 6, generator=generator)
    smoothed = functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    values = (300 * smoothed - 90) * (1 + 0.2 * torch.randn(smoothed.shape, generator=generator))
    return values.clamp(0, 255).to(torch.uint8)


def make_seeds(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(sample_seeds(seed, 0, 0, count))


def make_targets(count: int, *, rare: Sequence[int] = ()) -> Tensor:
    """Sample n has the class n % 20 and, where it is named, the rare one."""
    targets = functional.one_hot(torch.arange(count) % 20, NUM_CLASSES).float()
    targets[list(rare), RARE] = 1
    return targets


def apply(cfg: dict[str, Any], images: Tensor, seeds: Tensor | None = None, **make_kwargs: Any) -> Tensor:
    seeds = make_seeds(len(images)) if seeds is None else seeds
    result: Tensor = make(cfg, **make_kwargs)(images, make_targets(len(images)), seeds)[0]
    return result


def ones(count: int) -> Tensor:
    return torch.ones(count)


# draws


def test_splitmix_is_that_of_the_order_of_samples() -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64)
    values[:3] = 0, 2**64 - 1, 2**63
    ours = mix(torch.from_numpy(values.view(np.int64)))
    np.testing.assert_array_equal(ours.numpy().view(np.uint64), _mix(values))


def test_the_first_outputs_are_the_published_ones() -> None:
    """Of SplitMix64 with the state 0."""
    golden = 0x9E3779B97F4A7C15 - 2**64
    outputs = mix(torch.arange(3) * golden).numpy().view(np.uint64)
    assert [f"{value:016X}" for value in outputs] == ["E220A8397B1DCDAF", "6E789E6AA1B965F4", "06C45D188009454F"]


def test_draws_do_not_change_between_versions() -> None:
    """A run that is taken up again by a later version goes on with the same draws."""
    drawn = uniform(torch.tensor([0, 2**63 - 1]), Stream.GAIN, (2,))
    expected = []
    for seed in (0, 2**63 - 1):
        with np.errstate(over="ignore"):
            key = _mix(np.array([Stream.GAIN], np.uint64))
            base = _mix(np.array([seed], np.uint64) ^ key)
            places = np.arange(2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            expected.append((_mix(base + places) >> np.uint64(40)) / 2**24)
    np.testing.assert_array_equal(drawn.numpy(), np.array(expected, np.float32))


def test_uniform_draws_are_uniform_in_every_direction() -> None:
    """Over samples, over places in a stream, and over high and low bits; chi-square, 63 degrees of freedom."""
    for seeds in (make_seeds(20_000), torch.arange(20_000), torch.arange(20_000) << 40):
        drawn = uniform(seeds, Stream.AFFINE, (4,))
        assert drawn.dtype == torch.float32
        assert drawn.min() >= 0
        assert drawn.max() < 1
        for values in (*drawn.unbind(1), drawn.flatten(), drawn.flatten() * 4096 % 1):
            counts = torch.histc(values, 64, 0, 1)
            expected = len(values) / 64
            assert float(((counts - expected) ** 2 / expected).sum()) < 63 + 5 * math.sqrt(2 * 63)


def test_streams_places_and_samples_are_independent() -> None:
    count = 8_000
    seeds = make_seeds(count)
    columns = [uniform(seeds, stream, (3,)) for stream in Stream]
    together = torch.cat([*columns, uniform(seeds + 1, Stream.AFFINE, (3,))], dim=1)
    correlations = torch.corrcoef(together.T) - torch.eye(together.shape[1])
    assert correlations.abs().max() < 5 / math.sqrt(count)
    neighbours = torch.corrcoef(torch.stack([together[:-1, 0], together[1:, 0]]))[0, 1]
    assert abs(float(neighbours)) < 5 / math.sqrt(count)
    bits = (seeds[:, None] >> torch.arange(3)) & 1  # those of the symmetries
    with_bits = torch.corrcoef(torch.cat([bits.float(), together], dim=1).T)[:3, 3:]
    assert with_bits.abs().max() < 5 / math.sqrt(count)


def test_normal_draws_have_the_moments_of_the_normal_distribution() -> None:
    drawn = normal(make_seeds(20_000), Stream.ELASTIC, (2,)).flatten().double()
    moments = [float((drawn**power).mean()) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.1)
    assert drawn.isfinite().all()


def test_the_table_draws_what_the_streams_draw() -> None:
    shapes = {Stream.ELASTIC: (2, 2, 8, 8), Stream.BLUR: (), Stream.GAIN: (4,)}
    seeds = make_seeds(7)
    table = DrawTable(shapes)(seeds)
    for stream, shape in shapes.items():
        assert table[stream].shape == (7, *shape)
        assert torch.equal(table[stream], uniform(seeds, stream, shape))


# symmetries


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


def turned(seeds: Tensor, *, flip: bool = True, quarter_turn: bool = True) -> list[str]:
    module = SquareSymmetry(flip=flip, quarter_turn=quarter_turn).train()
    return names_of(module(LETTER.expand(len(seeds), -1, -1, -1), seeds))


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
    exact = Counter(turned(torch.arange(8), flip=flip, quarter_turn=quarter_turn))
    assert exact == dict.fromkeys(group, 8 // len(group))
    num_draws = 2000
    for seed, epoch in ((0, 0), (17, 300)):
        seeds = torch.from_numpy(sample_seeds(seed, epoch, 0, num_draws))
        counts = Counter(turned(seeds, flip=flip, quarter_turn=quarter_turn))
        assert counts.keys() == group
        share = 1 / len(group)
        for count in counts.values():  # 4.5 standard deviations of a fair draw
            assert abs(count / num_draws - share) <= 4.5 * (share * (1 - share) / num_draws) ** 0.5


def test_neighbours_and_epochs_turn_independently() -> None:
    num_draws = 2000
    here = turned(torch.from_numpy(sample_seeds(3, 0, 0, num_draws)))
    beside = turned(torch.from_numpy(sample_seeds(3, 0, 1, num_draws + 1)))
    later = turned(torch.from_numpy(sample_seeds(3, 1, 0, num_draws)))
    for other in (beside, later):
        same = sum(a == b for a, b in zip(here, other, strict=True)) / num_draws
        assert abs(same - 1 / 8) < 4.5 * (1 / 8 * 7 / 8 / num_draws) ** 0.5


@settings(deadline=None, max_examples=50)
@given(
    num_images=st.integers(1, 6),
    num_stains=st.integers(1, 4),
    side=st.integers(1, 7),
    dtype=st.sampled_from([torch.uint8, torch.float16, torch.float32, torch.int64]),
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


@pytest.mark.parametrize(("side", "tolerance"), [(32, 0), (30, 0.05)])
@pytest.mark.parametrize(("flip", "quarter_turn"), [(True, True), (True, False), (False, True)])
def test_the_resampling_turns_like_the_moves_of_pixels(
    side: int, tolerance: float, flip: bool, quarter_turn: bool
) -> None:
    images, seeds = make_images(16, side=side).float(), torch.arange(16)
    symmetry = SquareSymmetry(flip=flip, quarter_turn=quarter_turn).train()
    warp = Warp(Amounts(rotate_deg=30, elastic=0.1), symmetry)
    warped = warp(images, DrawTable(warp.shapes)(seeds), torch.zeros(16), seeds)
    torch.testing.assert_close(warped, symmetry(images, seeds), rtol=0, atol=tolerance)


# geometry


def affine_draws(**named: float) -> Tensor:
    """(1, 8) uniform draws; 0.5, the middle, where nothing is named, and no crop."""
    names = ("rotate", "scale", "shear", "shift_x", "shift_y", "crop", "crop_x", "crop_y")
    return torch.tensor([[named.get(name, 0.0 if name == "crop" else 0.5) for name in names]])


def warped(image: Tensor, amounts: Amounts, draws: Tensor, strength: float = 1.0) -> Tensor:
    warp = Warp(amounts, SquareSymmetry(flip=False, quarter_turn=False))
    seeds = torch.zeros(1, dtype=torch.int64)
    result: Tensor = warp(image[None], {Stream.AFFINE: draws}, torch.tensor([strength]), seeds)[0]
    return result


def difference_inside(one: Tensor, other: Tensor, margin: int) -> float:
    """Borders left out, as they are filled differently."""
    inside = (..., slice(margin, -margin), slice(margin, -margin))
    return float((one[inside] - other[inside]).abs().max())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("operation", ["rotate", "scale", "shear", "shift_x"])
def test_affine_parts_are_those_of_torchvision(operation: str, share: float) -> None:
    image = make_images(1, side=64)[0].float()
    image = reference.gaussian_blur(image, [9, 9], [2.0, 2.0])
    amounts = Amounts(rotate_deg=20, scale=0.25, shear_deg=10, shift=0.1)
    signed = 2 * share - 1
    ours = warped(image, amounts, affine_draws(**{operation: share}))
    theirs = reference.affine(
        image,
        angle=20 * signed if operation == "rotate" else 0.0,
        translate=[6.4 * signed if operation == "shift_x" else 0.0, 0.0],
        scale=1.25**signed if operation == "scale" else 1.0,
        shear=[-10 * signed if operation == "shear" else 0.0, 0.0],
        interpolation=reference.InterpolationMode.BILINEAR,
    )
    if operation == "shift_x":
        theirs = functional.grid_sample(  # torchvision moves by whole pixels
            image[None], grid_moved_by(64, 6.4 * signed), padding_mode="reflection", align_corners=False
        )[0]
    assert difference_inside(ours, theirs, 18) < 0.05
    assert (difference_inside(ours, image, 18) > 1) == (share != 0.5)


def grid_moved_by(side: int, x_px: float) -> Tensor:
    centres = pixel_centres(side, torch.device("cpu"))
    return torch.stack([(centres - 2 * x_px / side).expand(side, side), centres[:, None].expand(side, side)], -1)[None]


def test_a_shift_moves_and_reflects() -> None:
    image = torch.arange(64.0).view(1, 8, 8).expand(4, 8, 8)
    right_and_up = warped(image, Amounts(shift=0.25), affine_draws(shift_x=1, shift_y=0))
    torch.testing.assert_close(right_and_up[0, :6, 2:], image[0, 2:, :6])
    torch.testing.assert_close(right_and_up[0, :6, :2], image[0, 2:, :2].flip(1))


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_a_crop_is_cut_out_and_resized(x: float, y: float) -> None:
    """Of a quarter of the area; torchvision counts the same way from the corner."""
    image = make_images(1, side=64)[0].float()
    ours = warped(image, Amounts(crop=0.75), affine_draws(crop=1, crop_x=x, crop_y=y))
    corner = [int(32 * place) for place in (y, x)]
    theirs = reference.resized_crop(image, *corner, 32, 32, [64, 64], antialias=False)
    assert difference_inside(ours, theirs, 1) < 1e-2


def test_a_crop_leaves_something_at_any_strength() -> None:
    uniforms = torch.cat([affine_draws(crop=1.0), affine_draws(crop=0.5)])
    matrix, offset = Warp(Amounts(crop=1), SquareSymmetry(flip=False, quarter_turn=False)).affine(
        uniforms, torch.tensor([9.0, 9.0])
    )
    assert matrix[0, 0, 0].item() == pytest.approx(math.sqrt(1 - MOST_CUT_OFF))
    assert (matrix[:, 0, 0] + offset[:, 0] <= 1 + 1e-6).all()


def test_affine_parts_join_in_the_order_of_shear_rotation_zoom_shift_and_crop() -> None:
    draws = uniform(make_seeds(50), Stream.AFFINE, (8,))
    amounts = Amounts(rotate_deg=180, scale=0.5, shift=0.3, shear_deg=30, crop=0.6)
    strength = torch.linspace(0, 2, 50)
    matrices, offsets = Warp(amounts, SquareSymmetry(flip=False, quarter_turn=False)).affine(draws, strength)
    for d, s, matrix, offset in zip(draws.double(), strength.double(), matrices, offsets, strict=True):
        e = 2 * d - 1
        angle, shear = math.radians(180 * s * e[0]), math.tan(math.radians(min(30 * float(s), 75) * e[2]))
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        forth = (1 + 0.5 * float(s)) ** float(e[1]) * rotation @ np.array([[1, shear], [0, 1]])
        window = math.sqrt(1 - min(0.6 * float(s), MOST_CUT_OFF) * d[5])
        back = np.linalg.inv(forth)
        moved = (1 - window) * e[6:].numpy() - 0.6 * float(s) * e[3:5].numpy()
        np.testing.assert_allclose(matrix.numpy(), window * back, atol=2e-5)
        np.testing.assert_allclose(offset.numpy(), back @ moved, atol=2e-5)


def test_elastic_displacements_are_smooth_and_as_large_as_was_asked_for() -> None:
    values = torch.randn(3, 8, 8, 2, generator=torch.Generator().manual_seed(0))
    between = smooth(values, 64)
    expected = functional.interpolate(values.permute(0, 3, 1, 2), (64, 64), mode="bicubic", align_corners=True)
    torch.testing.assert_close(between, expected.permute(0, 2, 3, 1))

    side, count = 64, 40
    ramp = torch.arange(float(side)).expand(4, side, side)  # shows by how many px each pixel was moved along x
    moved = apply({"elastic": 0.02}, (2 * ramp + 64).expand(count, -1, -1, -1)) / 2 - 32 - ramp
    inside = moved[:, 0, 8:-8, 8:-8]
    assert float(inside.mean()) == pytest.approx(0, abs=0.1)
    assert 0.5 < float(inside.std()) / (0.02 * side) < 1.0  # less between the points of the grid than at them
    assert float(inside.diff(dim=2).abs().max()) < 1  # nothing folds over
    assert torch.equal(moved[:, 0], moved[:, 3])  # all stains alike


# intensity


def intensity_draws(count: int, **named: float) -> Draws:
    return {Stream[name.upper()]: torch.full((count, 4), value) for name, value in named.items()}


def test_gain_gamma_and_contrast_are_exact() -> None:
    image = make_images(1)[0]
    values = image.double().numpy() / 255
    for share in (0.0, 0.25, 1.0):
        signed, strength = 2 * share - 1, 0.5
        draws = intensity_draws(1, gain=share, gamma=share, contrast=share)
        amounts = Amounts(gain=0.6, gamma=0.8, contrast=0.4)
        step = Intensity(amounts, 4)
        ours = step(image.float()[None], draws, torch.tensor([strength]))[0] / 255
        brighter = values ** math.exp(0.8 * strength * signed) * math.exp(0.6 * strength * signed)
        mean = brighter.mean(axis=(1, 2), keepdims=True)
        expected = mean + (brighter - mean) * (1 + 0.4 * strength * signed)
        np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6)


def test_stains_change_independently() -> None:
    images = torch.full((64, 4, 8, 8), 100.0)
    factors = apply({"gain": 0.2}, images)[:, :, 0, 0] / 100
    assert float(factors.min()) >= math.exp(-0.2) - 1e-6
    assert float(factors.max()) <= math.exp(0.2) + 1e-6
    off_diagonal = torch.corrcoef(factors.T) - torch.eye(4)
    assert off_diagonal.abs().max() < 0.5


def test_blur_is_gaussian_and_of_half_the_images() -> None:
    images = make_images(200).float()
    blurred = apply({"blur": 1.5}, images)
    changed = (blurred != images).flatten(1).any(1)
    assert 70 < int(changed.sum()) < 130
    draws = uniform(make_seeds(200), Stream.BLUR, ())
    assert not changed[draws <= 0.5].any()
    assert changed[draws > 0.6].all()
    for n in torch.nonzero(draws > 0.6)[:5, 0].tolist():
        sigma = 1.5 * (2 * float(draws[n]) - 1)
        expected = reference.gaussian_blur(images[n], [11, 11], [sigma, sigma])
        torch.testing.assert_close(blurred[n], expected, rtol=0, atol=2e-3)


def test_a_blur_wider_than_the_image_is_cut_off() -> None:
    images = torch.full((4, 4, 8, 8), 100.0)
    step = Blur(Amounts(blur=8), 3.0)
    blurred = step(images.clone(), {Stream.BLUR: torch.linspace(0, 0.999, 4)}, torch.full((4,), 3.0))
    torch.testing.assert_close(blurred, images)
    assert apply({"blur": 8}, images[:, :, :1, :1]).shape == (4, 4, 1, 1)


def test_noise_is_normal_and_different_for_every_image_stain_and_place() -> None:
    images = torch.full((40, 4, 32, 32), 128.0)
    step = Noise(Amounts(noise=0.1), 4)
    draws = DrawTable(step.shapes)(make_seeds(40))
    draws[Stream.NOISE] = torch.full((40,), 0.5)
    noise = step(images.clone(), draws, ones(40)) - 128
    assert float(noise.std()) == pytest.approx(0.05 * 255, rel=0.02)
    assert float((noise / noise.std()).pow(4).mean()) == pytest.approx(3, abs=0.1)
    flat = noise.reshape(160, -1)
    assert (torch.corrcoef(flat) - torch.eye(160)).abs().max() < 0.2
    rows = torch.corrcoef(noise[0, 0]) - torch.eye(32)
    assert rows.abs().max() < 0.9
    assert torch.equal(step(images.clone(), draws, torch.zeros(40)), images)


def test_noise_strength_is_drawn_per_image() -> None:
    noisy = apply({"noise": 0.1}, torch.full((50, 4, 32, 32), 128.0)) - 128
    levels = noisy.flatten(1).std(1)
    expected = 25.5 * uniform(make_seeds(50), Stream.NOISE, ())
    torch.testing.assert_close(levels, expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("channels", [STAINS, ("green", "blue"), ("yellow", "green", "red"), ("green",)])
def test_stain_dropout_blacks_out_reference_stains_only(channels: Sequence[str]) -> None:
    count = 400
    images = torch.full((count, len(channels), 4, 4), 90.0)
    result = apply({"stain_dropout": 0.25}, images, channels=channels)
    black = (result == 0).flatten(2).all(2)
    assert ((result == 90) | (result == 0)).all()
    for stain, share in zip(channels, black.float().mean(0).tolist(), strict=True):
        assert share == (0 if stain == "green" else pytest.approx(0.25, abs=0.1))
    assert apply({"stain_dropout": 1, "strength": 3}, images, channels=channels)[:, channels.index("green")].min() == 90


def test_without_a_reference_stain_dropout_does_nothing() -> None:
    images = make_images(8, num_stains=1)
    assert torch.equal(apply({"stain_dropout": 1}, images, channels=("green",)), images.float())
    assert not Blackout(Amounts(stain_dropout=1), ("green",)).shapes


def test_cutout_is_a_square_of_up_to_a_quarter() -> None:
    count, side = 400, 32
    black = apply({"cutout": 0.5}, torch.full((count, 4, side, side), 7.0)) == 0
    assert torch.equal(black[:, 0], black[:, 3])
    heights, widths = black[:, 0].any(2).sum(1), black[:, 0].any(1).sum(1)
    assert torch.equal(heights, widths)
    assert torch.equal(black[:, 0].sum((1, 2)), heights * widths)
    assert int(heights.max()) <= side // 2
    assert int((heights > 0).sum()) == pytest.approx(count / 2, abs=50)
    assert all(black[:, 0].any(0)[edge].any() for edge in (0, -1, (..., 0), (..., -1)))


# mixing


def mixing_draws(count: int, **named: float) -> Draws:
    names = ("whether", "which", "level", "top", "left")
    return {Stream.MIX: torch.tensor([[named.get(name, 0.5) for name in names]]).expand(count, -1)}


def test_mixup_blends_images_and_targets_with_the_larger_part_of_their_own() -> None:
    images, targets = make_images(6).float(), make_targets(6)
    for level in (0.1, 0.5, 0.9):
        draws = mixing_draws(6, whether=0, level=level)
        mixed, blended = Mixing(Amounts(mixup=0.4))(images, targets, draws, ones(6))
        share = float(beta_quantiles(0.4)[int(level * QUANTILES)])
        share = max(share, 1 - share)
        for n in range(6):
            torch.testing.assert_close(mixed[n], share * images[n] + (1 - share) * images[n - 1], rtol=0, atol=1e-3)
            torch.testing.assert_close(blended[n], share * targets[n] + (1 - share) * targets[n - 1])
    assert torch.equal(targets, make_targets(6))


@settings(deadline=None, max_examples=40)
@given(level=st.floats(0, 0.9999), top=st.floats(0, 0.9999), left=st.floats(0, 0.9999), side=st.integers(1, 20))
def test_cutmix_pastes_a_rectangle_and_blends_targets_by_its_area(
    level: float, top: float, left: float, side: int
) -> None:
    values = torch.tensor([10.0, 20.0, 30.0])
    images = values.view(3, 1, 1, 1).expand(3, 2, side, side).contiguous()
    targets = torch.eye(3)
    draws = mixing_draws(3, whether=0, which=0.9, level=level, top=top, left=left)
    mixed, blended = Mixing(Amounts(cutmix=1.0))(images, targets, draws, ones(3))
    for n in range(3):
        pasted = mixed[n] == values[n - 1]
        assert ((mixed[n] == values[n]) | pasted).all()
        assert torch.equal(pasted[0], pasted[1])
        area = int(pasted[0].sum())
        assert area == int(pasted[0].any(0).sum() * pasted[0].any(1).sum())
        assert float(blended[n, n - 1]) == pytest.approx(area / side**2, abs=1e-6)
        assert float(blended[n, n]) == pytest.approx(1 - area / side**2, abs=1e-6)
        lam = float(beta_quantiles(1.0)[int(np.float32(level) * QUANTILES)])
        assert area <= (math.sqrt(1 - lam) * side + 0.5 + 1e-4) ** 2


def test_mixing_is_of_the_share_that_was_asked_for_and_of_both_kinds() -> None:
    count = 600
    images = (torch.arange(count) % 200).float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    targets = make_targets(count)
    for keys, kinds in (({"mixup": 0.4}, 1), ({"cutmix": 1}, 1), ({"mixup": 0.4, "cutmix": 1}, 2)):
        module = make({**keys, "mix_probability": 0.4, "strength": 1.5}, channels=("green",))
        mixed, blended = module(images, targets, make_seeds(count))
        flat = mixed.flatten(1)
        blends = ((flat != images.flatten(1)) & (flat != images.roll(1, 0).flatten(1))).any(1)
        pastes = (flat == images.roll(1, 0).flatten(1)).any(1)
        assert torch.equal((blended != targets).any(1), blends | pastes)
        assert not (blends & pastes).any()
        changed = float((blends | pastes).float().mean())
        assert changed == pytest.approx(0.6, abs=0.1)  # a few are mixed with a share of 0
        if kinds == 2:
            assert float(blends.float().mean()) == pytest.approx(0.3, abs=0.08)
        torch.testing.assert_close(blended.sum(1), ones(count))


@pytest.mark.parametrize("alpha", [1e-3, 0.4, 1.0, 50.0])
def test_quantiles_are_those_of_the_beta_distribution(alpha: float) -> None:
    table = beta_quantiles(alpha)
    assert table.isfinite().all()
    assert (table.diff() >= 0).all()
    assert table.min() >= 0
    assert table.max() <= 1
    assert float(table.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(table.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_an_image_alone_in_its_batch_is_mixed_with_nothing() -> None:
    images, targets = make_images(1), make_targets(1)
    mixed, blended = make({"mixup": 1, "cutmix": 1, "mix_probability": 1})(images, targets, make_seeds(1))
    assert torch.equal(mixed, images.float())
    assert torch.equal(blended, targets)


# all together


@pytest.mark.parametrize("operation", [None, *OPERATIONS])
def test_every_operation_does_something_and_nothing_at_an_amount_of_0(operation: str | None) -> None:
    images, targets, seeds = make_images(8), make_targets(8), make_seeds(8)
    off = dict.fromkeys(OPERATIONS, 0)
    same, same_targets = make(off)(images, targets, seeds)
    assert same is images
    assert same_targets is targets
    if operation is not None:
        changed, blended = make({operation: OPERATIONS[operation], "mix_probability": 1})(images, targets, seeds)
        assert changed.dtype == torch.float32
        assert not torch.equal(changed, images.float())
        assert torch.equal(blended, targets) == (operation not in MIXING)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [0, 1, 9])
def test_output_stays_in_range_for_any_images(preset: str, scale: int) -> None:
    module = make({"preset": preset, "strength": min(scale, 3), "rare_strength": max(1, scale / 3)})
    targets, seeds = make_targets(24, rare=range(24)), make_seeds(24)
    noise = torch.randint(0, 256, (24, 4, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for images in (torch.zeros_like(noise), torch.full_like(noise, 255), noise, make_images(24, side=16)):
        before = images.clone()
        result, blended = module(images, targets, seeds)
        as_float, _ = module(images.float(), targets, seeds)
        assert torch.equal(images, before)
        assert result.shape == images.shape
        assert result.dtype == (torch.uint8 if preset == "none" or scale == 0 else torch.float32)
        assert torch.equal(result.float(), as_float)  # uint8 and float images alike
        assert as_float.isfinite().all()
        assert as_float.min() >= 0
        assert as_float.max() <= 255
        assert blended.min() >= 0
        assert blended.max() <= 1
        assert (blended.sum(1) == targets.sum(1)).all() or preset == "heavy"


def test_intensities_beyond_the_scale_are_cut_off() -> None:
    images = torch.linspace(-40, 300, 64).view(1, 1, 8, 8).expand(2, 4, 8, 8)
    for cfg in ({"gamma": 0.5}, {"rotate_deg": 10}, {"cutout": 1}):
        result = apply(cfg, images)
        assert result.isfinite().all()
        assert result.min() >= 0
        assert result.max() <= 255


@pytest.mark.parametrize("preset", PRESETS)
def test_eval_mode_hands_back_the_same_objects(preset: str) -> None:
    module = make({"preset": preset}).eval()
    images, targets = make_images(2), make_targets(2)
    result, same_targets = module(images, targets, make_seeds(2))
    assert result is images
    assert same_targets is targets


ALONE = {name: amount for name, amount in OPERATIONS.items() if name not in MIXING}


@pytest.mark.parametrize(
    "cfg", [{name: amount} for name, amount in ALONE.items()] + [{**ALONE, "flip": True, "quarter_turn": True}],
    ids=[*ALONE, "all"],
)  # fmt: skip
def test_a_sample_does_not_depend_on_its_batch(cfg: dict[str, Any]) -> None:
    module = make({**cfg, "rare_strength": 1.5})
    images, targets, seeds = make_images(8, side=20), make_targets(8, rare=[2, 5]), make_seeds(8, seed=4)
    whole, _ = module(images, targets, seeds)
    again, _ = module(images, targets, seeds)
    assert torch.equal(whole, again)
    pieces = [module(images[n : n + 1], targets[n : n + 1], seeds[n : n + 1])[0] for n in range(8)]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-3)
    order = torch.tensor(random.Random(0).sample(range(8), 8))
    permuted, _ = module(images[order], targets[order], seeds[order])
    torch.testing.assert_close(permuted, whole[order], rtol=0, atol=1e-3)
    other, _ = module(images, targets, make_seeds(8, seed=5))
    assert not torch.equal(other, whole)


def test_images_that_are_taken_some_at_a_time_come_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets, seeds = make_images(7), make_targets(7), make_seeds(7)
    module = make({"preset": "heavy"})
    whole = module(images, targets, seeds)
    monkeypatch.setattr("hpa_ray.augment.pipeline.CPU_VALUES_PER_THREAD", 1)
    pieces = module(images, targets, seeds)
    torch.testing.assert_close(pieces[0], whole[0], rtol=0, atol=1e-3)
    assert torch.equal(pieces[1], whole[1])


def test_autocast_and_gradients_leave_it_alone() -> None:
    images, targets, seeds = make_images(4), make_targets(4), make_seeds(4)
    module = make({"preset": "heavy"})
    plain, _ = module(images, targets, seeds)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = module(images, targets, seeds)
    assert torch.equal(cast, plain)
    assert not plain.requires_grad
    assert not list(module.parameters())
    assert not module.state_dict()  # nothing of it is part of a checkpoint


def test_nothing_waits_for_a_value_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the device `meta` have shapes and no values: a look at one fails, where a GPU would be waited for."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no meta
    module = make({"preset": "heavy", "rare_only": True}).to("meta")
    on_device = [tensor.to("meta") for tensor in (make_images(4), make_targets(4), make_seeds(4))]
    images, targets = module(*on_device)
    assert (images.shape, images.dtype, images.device.type) == ((4, 4, 32, 32), torch.float32, "meta")
    assert targets.shape == (4, NUM_CLASSES)


def test_the_layout_in_memory_does_not_matter() -> None:
    images, targets, seeds = make_images(4), make_targets(4), make_seeds(4)
    module = make({"preset": "heavy"})
    plain, _ = module(images, targets, seeds)
    other, _ = module(images.contiguous(memory_format=torch.channels_last), targets, seeds)
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_and_gives_the_same_without_waiting() -> None:
    images, targets, seeds = make_images(16, side=64), make_targets(16, rare=[3]), make_seeds(16)
    module = make({"preset": "heavy", "rare_strength": 1.5})
    expected, expected_targets = module(images, targets, seeds)
    on_device = [tensor.cuda() for tensor in (images, targets, seeds)]
    assert torch.equal(uniform(on_device[2], Stream.GAIN, (4,)).cpu(), uniform(seeds, Stream.GAIN, (4,)))
    module.cuda()
    module(*on_device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result, blended = module(*on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert float((result.cpu() - expected).abs().quantile(0.999)) < 0.05  # edges of squares may fall on the other side
    torch.testing.assert_close(blended.cpu(), expected_targets, rtol=0, atol=1e-3)


def test_an_empty_batch_passes() -> None:
    result, targets = make({"preset": "heavy"})(make_images(1)[:0], make_targets(1)[:0], make_seeds(1)[:0])
    assert len(result) == len(targets) == 0


# strength


def test_strength_0_leaves_flips_and_quarter_turns() -> None:
    images, targets, seeds = make_images(8), make_targets(8), make_seeds(8)
    result, same = make({"preset": "heavy", "strength": 0})(images, targets, seeds)
    assert torch.equal(result, SquareSymmetry(flip=True, quarter_turn=True).train()(images, seeds))
    assert same is targets


def test_rare_only_leaves_other_images_at_flips_and_quarter_turns() -> None:
    images, seeds = make_images(8), make_seeds(8)
    targets = make_targets(8, rare=[1, 6])
    for preset, tolerance in (("light", 1e-3), ("heavy", 1e-3)):
        module = make({"preset": preset, "rare_only": True, "mix_probability": 1})
        result, blended = module(images, targets, seeds)
        moved = SquareSymmetry(flip=True, quarter_turn=True).train()(images, seeds).float()
        for n in range(8):
            assert ((result[n] - moved[n]).abs().max() > 1) == (n in (1, 6))
            if n not in (1, 6):
                torch.testing.assert_close(result[n], moved[n], rtol=0, atol=tolerance)
                assert torch.equal(blended[n], targets[n])


def test_rare_strength_multiplies_strength() -> None:
    images, seeds = torch.full((8, 4, 4, 4), 100.0), make_seeds(8)
    logs = {
        (strength, rare_strength): make({"gain": 0.1, "strength": strength, "rare_strength": rare_strength})(
            images, make_targets(8, rare=[0, 1]), seeds
        )[0].log()
        - math.log(100)
        for strength, rare_strength in ((1.0, 1.0), (2.0, 1.0), (2.0, 1.5), (1.0, 0.0))
    }
    base = logs[1.0, 1.0]
    torch.testing.assert_close(logs[2.0, 1.0], 2 * base, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logs[2.0, 1.5][:2], 3 * base[:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logs[2.0, 1.5][2:], 2 * base[2:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logs[1.0, 0.0][:2], 0 * base[:2], rtol=0, atol=1e-5)
    torch.testing.assert_close(logs[1.0, 0.0][2:], base[2:])


def test_rare_is_what_less_than_the_share_of_images_have() -> None:
    counts = np.array([9, 10, 11, 0])
    cfg = AugmentConfig(preset="none", gain=0.5, rare_only=True, rare_share=0.01)
    module = build_augment(cfg, channels=("green",), class_counts_K=counts, num_images=1000).train()
    images = torch.full((4, 1, 2, 2), 100.0)
    result, _ = module(images, torch.eye(4)[[0, 1, 2, 2]], make_seeds(4))
    assert [bool((image != 100).any()) for image in result] == [True, False, False, False]


# configuration


def test_keys_stand_above_the_preset() -> None:
    assert amounts_of(AugmentConfig(preset="medium")) == PRESETS["medium"]
    cfg = AugmentConfig(preset="heavy", flip=False, rotate_deg=0, noise=0.2, mix_probability=0.9)
    amounts = amounts_of(cfg)
    assert (amounts.flip, amounts.rotate_deg, amounts.noise, amounts.mix_probability) == (False, 0, 0.2, 0.9)
    assert (amounts.crop, amounts.quarter_turn) == (PRESETS["heavy"].crop, True)


def test_presets_are_values_that_could_be_set_and_grow() -> None:
    keys = [name for name in Amounts.__dataclass_fields__ if name != "mix_probability"]
    assert set(keys) < set(AugmentConfig.model_fields)
    for amounts in PRESETS.values():
        AugmentConfig(**{name: getattr(amounts, name) for name in keys})
    for smaller, larger in (("none", "light"), ("light", "medium"), ("medium", "heavy")):
        assert all(getattr(PRESETS[smaller], name) <= getattr(PRESETS[larger], name) for name in keys)
    assert set(AugmentConfig.model_json_schema()["properties"]["preset"]["enum"]) == set(PRESETS)


def test_amounts_are_known_without_torch() -> None:
    code = "import sys; from hpa_ray.augment import amounts_of, PRESETS; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
