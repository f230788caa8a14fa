"""Images per second of training steps in this process: fed from shards, on data in device memory, and a plain loop.

    uv run benchmarks/train_step.py FOLDER --size 256 512 --batch 128          # on a GPU: bf16, channels_last
    uv run benchmarks/train_step.py FOLDER --size 64 --batch 16 --steps 10     # on a CPU

The plain loop is what one would write by hand: timm's ResNet50 (torchvision's where timm is not installed) with AdamW,
binary cross-entropy and the same autocast, on one batch that never leaves the device, without augmentation. Ratios are
of one run of this program. No Ray is used.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpa_ray.cli.main import main as hpa_ray
from hpa_ray.config import Config, load_config
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model.precision import numerics
from hpa_ray.shards import CHUNK_ROWS
from hpa_ray.stream import Data, EpochOrder, Place, Schedule, Steps, open_data, training_samples
from hpa_ray.stream.device import DeviceBatch, to_device
from hpa_ray.train.host import LocalHost
from hpa_ray.train.learner import Learner

EPOCHS = 1000  # never reached: the number of steps ends the measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=600, help="synthetic images the shards are made of")
    parser.add_argument("--steps", type=int, default=50, help="timed steps, after a fifth as many")
    parser.add_argument("--rounds", type=int, default=3, help="times each is measured, taking turns")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--augment", default="light", help="preset of the fed runs")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    options = parser.parse_args()
    rows = []
    for size in options.size:
        rows += measure(options, size)
    width = max(len(row["what"]) for row in rows)
    print(f"{'':{width}}  size_px  images/s  of in memory")
    for row in rows:
        print(f"{row['what']:{width}}  {row['size_px']:7}  {row['images_per_s']:8.1f}  {row['of_in_memory']:12.2f}")
    print(json.dumps({"device": device_name(), "torch": torch.__version__, "rows": rows}))


def measure(options: argparse.Namespace, size: int) -> list[dict[str, Any]]:
    """Every way at one size, in turns."""
    shards = prepare(options, size)
    ways: dict[str, Callable[[], Iterator[int]]] = {}
    for compiled in (False, True) if options.compile else (False,):
        suffix = ", compiled" if compiled else ""
        words = [f"train.compile={str(compiled).lower()}", f"augment.preset={options.augment}"]
        config, data = open_run(options, shards, words)
        bare, _ = open_run(options, shards, [words[0], "augment.preset=none"])
        ways[f"fed from shards, augmented {options.augment}{suffix}"] = lambda c=config, d=data: fed(c, d)  # type: ignore[misc]
        ways[f"in memory, augmented {options.augment}{suffix}"] = lambda c=config, d=data: in_memory(c, d)  # type: ignore[misc]
        ways[f"in memory{suffix}"] = lambda c=bare, d=data: in_memory(c, d)  # type: ignore[misc]
    ways["plain loop"] = lambda: plain(config, data)
    running = {name: way() for name, way in ways.items()}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, steps in running.items():
            speeds[name].append(images_per_s(steps, options.steps))
    base = statistics.median(speeds["in memory"])
    return [
        {
            "what": name,
            "size_px": size,
            "images_per_s": (speed := statistics.median(found)),
            "of_in_memory": speed / base,
        }
        for name, found in speeds.items()
    ]


def images_per_s(steps: Iterator[int], count: int) -> float:
    for _ in itertools.islice(steps, max(3, count // 5)):
        pass
    synchronize()
    start = time.perf_counter()
    images = sum(itertools.islice(steps, count))
    synchronize()
    return images / (time.perf_counter() - start)


def fed(config: Config, data: Data) -> Iterator[int]:
    """The way of a real run: memory-mapped shards, threads reading ahead, pinned copies, augmentation on the device."""
    learner, schedule, host = learner_of(config, data)
    stream = to_device(host.feed(data.source, schedule), data, host.device)
    with numerics(host.device, exact=config.exact):
        for batch in stream:
            epoch, step = batch.batch.epoch, batch.batch.step
            if step == 0:
                learner.begin_epoch(epoch)
            learner.learn(batch, epoch, step)
            yield len(batch.batch.rows_B)


def in_memory(config: Config, data: Data) -> Iterator[int]:
    """The same steps on one batch that is on the device already."""
    learner, schedule, host = learner_of(config, data)
    batch: DeviceBatch = next(to_device(host.feed(data.source, schedule), data, host.device))
    with numerics(host.device, exact=config.exact):
        learner.begin_epoch(0)
        while True:
            learner.learn(batch, 0, 0)
            yield len(batch.batch.rows_B)


def plain(config: Config, data: Data) -> Iterator[int]:
    """What one would write by hand."""
    learner, schedule, host = learner_of(config, data)
    batch = next(to_device(host.feed(data.source, schedule), data, host.device))
    model: nn.Module
    try:
        import timm

        model = timm.create_model("resnet50", in_chans=len(data.source.channels), num_classes=NUM_CLASSES)
    except ImportError:
        print("timm is not installed: the plain loop has torchvision's ResNet50")
        from torchvision.models import resnet50

        model = resnet50(num_classes=NUM_CLASSES)
        model.conv1 = nn.Conv2d(len(data.source.channels), 64, 7, stride=2, padding=3, bias=False)
    model = model.to(device=host.device, memory_format=learner.memory_format).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_of = nn.BCEWithLogitsLoss()
    images = (batch.images_BCSS.float() / 255).contiguous(memory_format=learner.memory_format)
    with numerics(host.device, exact=config.exact):
        while True:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(host.device.type, learner.dtype, enabled=learner.dtype != torch.float32):
                logits = model(images)
            loss_of(logits.float(), batch.targets_BK).backward()
            optimizer.step()
            yield len(images)


def learner_of(config: Config, data: Data) -> tuple[Learner, Schedule, LocalHost]:
    host = LocalHost(None, config.train.prefetch_batches, lambda event: None)
    samples = training_samples(config, data)
    order = EpochOrder(samples.num_samples, 0, chunk_rows=CHUNK_ROWS)
    steps = Steps(order.num_rows, config.train.batch_size, 1)
    schedule = Schedule(data.parts["train"], data.parts["val"][:0], samples, order, steps, 0, Place(0, steps), EPOCHS)
    return Learner(config, data, host, steps), schedule, host


def open_run(options: argparse.Namespace, shards: Path, words: list[str]) -> tuple[Config, Data]:
    common = [f"data.shards={shards}", "split.parts=0.9/0.1", f"train.batch_size={options.batch}"]
    common += [f"train.epochs={EPOCHS}", f"train.precision={options.precision}", "model.name=resnet50"]
    config = load_config([*common, *words])
    return config, open_data(config)


def prepare(options: argparse.Namespace, size: int) -> Path:
    atlas, output = options.folder / "atlas", options.folder / f"{size}px"
    if not (atlas / "train.csv").exists():
        run(["synth", f"synth.num_images={options.images}", f"synth.output={atlas}"])
    words = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", f"data.image_size={size}"]
    run(["prepare", *words, f"prepare.output={output}", "prepare.num_workers=0"])
    return Path(output)


def run(words: list[str]) -> None:
    if code := hpa_ray(words):
        raise SystemExit(code)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
