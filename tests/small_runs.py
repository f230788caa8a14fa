"""Small runs of the training loop without Ray, for tests of what it learns and of what a stop may not change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import load_config
from hpa_ray.schema import Source
from hpa_ray.stream import Batch, Schedule, local_feed, open_data
from hpa_ray.train.host import DistributedHost, Event, LocalHost, Notice
from hpa_ray.train.loop import train

CPU = torch.device("cpu")
PLAIN = ["augment.preset=none", "optim.schedule=constant", "optim.warmup_epochs=0"]
RICH = [
    *("model.name=resnet18", "model.dropout=0.3", "model.learned_gamma=true", "model.pooling=avgmax"),
    *("loss.name=asl", "loss.weighting=sqrt_inverse", "sampling.name=repeat_factor", "sampling.threshold=0.2"),
    *("augment.preset=heavy", "train.ema_decay=0.9", "train.accumulate=2", "train.freeze_epochs=1"),
    *("train.sizes=16,32", "optim.clip_norm=1", "optim.backbone_lr=0.5", "train.deterministic=true"),
]
NO_BATCH_NORM = ["model.name=mlp6", "train.epochs=3", "augment.preset=medium", "optim.name=sgd", "optim.lr=0.05"]


def run(shards: str, folder: Path, *words: str, host: Any = None) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of a run, or of the rest of it."""
    config = load_config([f"data.shards={shards}", "split.parts=40/20", *words])
    train(config, open_data(config), host or LocalHost(False, 2, lambda event: None), RunFolder(str(folder)))
    return RunFolder(str(folder)).read_metrics()


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("wall_s", "images_per_s", "data_wait_pct", "first_batch_s")
    return [{name: value for name, value in line.items() if name not in times} for line in lines]


class ProcessHost(DistributedHost):
    """A process of a gloo group, without Ray."""

    def feed(self, source: Source, schedule: Schedule) -> Iterator[Batch]:
        return local_feed(source, schedule, prefetch=2)

    def tell(self, event: dict[str, Any]) -> None:
        pass

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        pass

    def notice(self) -> Notice:
        return ""

    def give_up(self, event: Event) -> None:
        print(event, flush=True)
