"""How many images a second does augmentation take, by preset and by operation?

    uv run python benchmarks/augment.py                                 # 256 px, batches of 32, on the CPU
    uv run python benchmarks/augment.py --device cuda --batch 128 --size 512

Against copying the batch as it is, and against a pipeline of torchvision.transforms.v2 with the operations of `medium`
that takes one image after another, as its draws are per call; what it refuses to do with four stains is done for each
as an image of its own. Batches are random pixels, uint8 on the device. Times are the best of --repeats after a
warm-up. Where other programs use the machine, take --threads 1 and the columns of CPU time: it is that of this process.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from hpa_ray.augment import PRESETS, build_augment
from hpa_ray.channels import STAINS
from hpa_ray.config import AugmentConfig
from hpa_ray.labels import NUM_CLASSES

SINGLE = (
    "rotate_deg", "crop", "elastic", "gain", "gamma", "contrast", "blur", "noise", "stain_dropout", "cutout",
    "mixup", "cutmix",
)  # fmt: skip
MEDIUM, HEAVY = PRESETS["medium"], PRESETS["heavy"]


class ImageByImage:
    """What `medium` does, out of torchvision's parts."""

    def __init__(self) -> None:
        self.moves = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.RandomAffine(
                    MEDIUM.rotate_deg,
                    translate=(MEDIUM.shift, MEDIUM.shift),
                    scale=(1 / (1 + MEDIUM.scale), 1 + MEDIUM.scale),
                    shear=MEDIUM.shear_deg,
                    interpolation=v2.InterpolationMode.BILINEAR,
                ),
            ]
        )
        radius = int(np.ceil(3 * MEDIUM.blur))
        self.blur = v2.RandomApply([v2.GaussianBlur(2 * radius + 1, (0.01, MEDIUM.blur))], 0.5)

    def __call__(self, images_BCSS: Tensor) -> Tensor:
        crop = v2.RandomResizedCrop(images_BCSS.shape[-1], (1 - MEDIUM.crop, 1.0), (1.0, 1.0))
        return torch.stack([self._finish(crop(self.moves(image))) for image in images_BCSS])

    def _finish(self, image_CSS: Tensor) -> Tensor:
        stains = []
        for plane in torch.split(image_CSS, 1):
            gamma, gain = np.exp(np.random.uniform(-1, 1, 2) * (MEDIUM.gamma, MEDIUM.gain))
            plane = functional.adjust_gamma(plane, float(gamma), float(gain))
            stains.append(functional.adjust_contrast(plane, float(1 + np.random.uniform(-1, 1) * MEDIUM.contrast)))
        image = self.blur(torch.cat(stains))
        noisy: Tensor = functional.gaussian_noise(image, sigma=float(np.random.uniform(0, MEDIUM.noise)))
        return noisy * 255


class Seconds(NamedTuple):
    wall: float
    cpu: float


def seconds(run: Callable[[], object], device: torch.device, repeats: int) -> Seconds:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    times = []
    for _ in range(repeats + 2):
        wait()
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        wait()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return Seconds(*(min(column) for column in zip(*times[2:], strict=True)))


def configurations() -> dict[str, AugmentConfig]:
    """By the name in the table."""
    presets = {name: AugmentConfig.model_validate({"preset": name}) for name in PRESETS if name != "none"}
    single = {"flip and quarter_turn": AugmentConfig(preset="none", flip=True, quarter_turn=True)}
    for key in SINGLE:
        amount = getattr(HEAVY, key)
        single[f"{key} {amount:g}"] = AugmentConfig.model_validate({"preset": "none", key: amount})
    return presets | single


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side in px")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of the CPU; unset: as many as torch takes")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (args.batch, len(STAINS), args.size, args.size), np.uint8)
    images = torch.from_numpy(pixels).to(device)
    targets = torch.from_numpy(rng.random((args.batch, NUM_CLASSES)) < 0.06).float().to(device)
    seeds = torch.from_numpy(rng.integers(0, 2**63 - 1, args.batch)).to(device)
    counts = np.full(NUM_CLASSES, 100)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.batch} x {len(STAINS)} x {args.size} x {args.size}, {name}, torch {torch.__version__}")
    print(f"{'':28}{'images/s':>10}{'ms/image':>10}{'x copy':>8}{'CPU ms/image':>14}{'x copy':>8}")
    copy = seconds(images.clone, device, args.repeats)

    def show(row: str, measured: Seconds) -> None:
        wall, cpu = (1000 * value / args.batch for value in measured)
        ratios = [value / base for value, base in zip(measured, copy, strict=True)]
        print(f"{row:28}{1000 / wall:10,.0f}{wall:10.4f}{ratios[0]:8.1f}{cpu:14.4f}{ratios[1]:8.1f}", flush=True)

    show("copy of the batch", copy)
    show("copy as float32", seconds(images.float, device, args.repeats))
    medium = None
    for row, cfg in configurations().items():
        module = build_augment(cfg, channels=STAINS, class_counts_K=counts, num_images=100).to(device).train()
        measured = seconds(functools.partial(module, images, targets, seeds), device, args.repeats)
        medium = measured if row == "medium" else medium
        show(row, measured)
    pipeline = ImageByImage()
    theirs = seconds(lambda: pipeline(images), device, max(2, args.repeats // 3))
    show("torchvision, image by image", theirs)
    assert medium is not None
    wall, cpu = (ours / other for ours, other in zip(medium, theirs, strict=True))
    print(f"medium takes {wall:.2f} of the time of torchvision image by image, {cpu:.2f} of its CPU time")


if __name__ == "__main__":
    main()
