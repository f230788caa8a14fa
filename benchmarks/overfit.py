"""Can each architecture learn 32 images by heart? Macro F1 1.0 at threshold 0.5, in eval mode, or it is broken.

uv run benchmarks/overfit.py FOLDER                        # a choice of architectures; half an hour on two CPU cores
uv run benchmarks/overfit.py FOLDER vit_b_16 timm/resnet18 # these
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from hpa_ray.cli.main import main as hpa_ray
from hpa_ray.config import load_config
from hpa_ray.model.precision import numerics
from hpa_ray.stream import EpochOrder, Place, Schedule, Steps, open_data, training_samples
from hpa_ray.stream.device import to_device
from hpa_ray.train.host import LocalHost
from hpa_ray.train.learner import Learner

ARCHITECTURES = (
    "resnet50",
    "resnet50_enhanced",
    "mlp6",
    "resnet18",
    "densenet121",
    "convnext_tiny",
    "efficientnet_v2_s",
    "swin_v2_t",
    "vit_b_16",
    "timm/resnet18",
)
EVERY = 5
"""Epochs between looks at the scores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--schedule", default="constant", help="optim.schedule; transformers want cosine and a warm-up")
    parser.add_argument("--warmup", type=int, default=0, help="epochs")
    options = parser.parse_args()
    atlas, shards = options.folder / "atlas", options.folder / f"{options.size}px"
    if not (atlas / "train.csv").exists():
        run(["synth", "synth.num_images=40", "synth.image_size=128", f"synth.output={atlas}"])
    words = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", f"data.image_size={options.size}"]
    run(["prepare", *words, f"prepare.output={shards}", "prepare.num_workers=0"])
    for name in options.names:
        start = time.monotonic()
        epochs, f1 = overfit(name, shards, options)
        print(f"{name:<20} macro F1 {f1:.3f} after {epochs} epochs, {time.monotonic() - start:.0f} s", flush=True)


def overfit(name: str, shards: Path, options: argparse.Namespace) -> tuple[int, float]:
    """Epochs of two batches, and macro F1 over the classes that occur in the 32 images."""
    config = load_config(
        [
            *(f"data.shards={shards}", "split.parts=32/8", f"model.name={name}", "train.batch_size=16"),
            *(f"train.epochs={options.epochs}", f"optim.lr={options.lr}", "optim.weight_decay=0"),
            *(f"optim.schedule={options.schedule}", f"optim.warmup_epochs={options.warmup}"),
            *("augment.preset=none", "optim.clip_norm=1"),
        ]
    )
    data, host = open_data(config), LocalHost(None, 2, lambda event: None)
    samples = training_samples(config, data)
    order, rows = EpochOrder(samples.num_samples, 0), data.parts["train"]
    steps = Steps(order.num_rows, config.train.batch_size, 1)
    schedule = Schedule(rows, rows[:0], samples, order, steps, 0, Place(0, steps), options.epochs)
    learner = Learner(config, data, host, steps)
    images = torch.from_numpy(data.source.read(rows).pixels_BCSS.copy()).to(host.device)
    targets = data.targets_NK[rows].astype(bool)
    f1 = 0.0
    with numerics(host.device, exact=config.exact):
        for batch in to_device(host.feed(data.source, schedule), data, host.device):
            epoch, step = batch.batch.epoch, batch.batch.step
            if step == 0:
                learner.begin_epoch(epoch)
            learner.learn(batch, epoch, step)
            if step == steps.per_epoch - 1 and epoch % EVERY == EVERY - 1:
                learner.end_epoch(epoch)
                predicted = learner.predict(images).cpu().numpy() >= 0
                hits, either = 2 * (predicted & targets).sum(axis=0), predicted.sum(axis=0) + targets.sum(axis=0)
                f1 = float((hits / np.maximum(either, 1))[targets.any(axis=0)].mean())
                if epoch % (10 * EVERY) == 10 * EVERY - 1:
                    print(f"{name:<20} macro F1 {f1:.3f} at epoch {epoch + 1}", flush=True)
                if f1 == 1.0:
                    return epoch + 1, f1
    return options.epochs, f1


def run(words: list[str]) -> None:
    if code := hpa_ray(words):
        raise SystemExit(code)


if __name__ == "__main__":
    main()
