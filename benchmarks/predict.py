"""How near `predict` comes to its limits: reading alone, and the model alone. Everything in one process, by turns.

    python benchmarks/predict.py [folder=/tmp/predict_bench] [images=256] [side=512] [size=64] [rounds=5]

Draws an atlas of `side` px, reads it at `size` px as files and as shards, and prints images/s as medians of the rounds
with the least and the greatest, and the ratios that count: what predicting keeps of the slower of its two parts. `sum`
is what the two parts would give one after the other; above it they overlap, as far as there are cores for both.
"""

import contextlib
import io
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpa_ray import cluster
from hpa_ray.channels import STAINS
from hpa_ray.checkpoint.model_file import ModelCard, ShippedModel, save_model
from hpa_ray.cli.main import main
from hpa_ray.config import Config, InferenceConfig, ModelConfig
from hpa_ray.ingest.opened import open_source
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model import build_model
from hpa_ray.predict import Given, Member, ensemble_of
from hpa_ray.predict.infer import PREFETCH_BATCHES, Predictor, found_batches
from hpa_ray.schema import Source
from hpa_ray.stream import Sweep, local_feed
from hpa_ray.synth import draw_label_sets, write_atlas

BATCH = 64
MODELS = ("mlp6", "resnet18")


def shipped(name: str, size: int) -> ShippedModel:
    cfg = ModelConfig(name=name)
    moments: Any = {"mean": [0.1] * 4, "std": [0.2] * 4}
    model = build_model(cfg, channels=STAINS, image_size=size, num_classes=NUM_CLASSES, seed=0, **moments)
    thresholds = (0.5,) * NUM_CLASSES
    card = ModelCard(channels=STAINS, image_size=size, model=cfg, run=name, epoch=1, thresholds=thresholds, config="")
    return ShippedModel(model.eval(), card)


def quietly(*words: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0, words


def read(source: Source, sweep: Sweep) -> None:
    for _ in local_feed(source, sweep, prefetch=PREFETCH_BATCHES):
        pass


def copy(source: Source, sweep: Sweep, pixels: np.ndarray) -> None:
    for start in range(0, len(sweep.rows), BATCH):
        pixels[start : start + BATCH].copy()


def think(predictor: Predictor, batches: list[Any]) -> None:
    for batch in batches:
        predictor.finish(predictor.begin(batch))


def predict(given: Given, source: Source, sweep: Sweep) -> None:
    for _ in found_batches(given, source, sweep):
        pass


def verb(folder: Path, name: str, words: list[str]) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)
    quietly("predict", f"predict.run={folder}/{name}", *words, f"predict.output={folder}/out")


def measure(settings: dict[str, str]) -> None:
    folder = Path(settings.get("folder", "/tmp/predict_bench"))
    num_images, side = int(settings.get("images", 256)), int(settings.get("side", 512))
    size, rounds = int(settings.get("size", 64)), int(settings.get("rounds", 5))
    if not (folder / "train.csv").exists():
        folder.mkdir(parents=True)
        write_atlas(folder, draw_label_sets(num_images, seed=0), image_size=side, seed=0, num_workers=1)
    images = [f"data.images={folder}/train", f"data.image_size={size}"]
    shards = f"{folder}/shards{size}"
    if not Path(shards, "index.json").exists():
        quietly(
            "prepare", *images, f"data.labels={folder}/train.csv", f"prepare.output={shards}", "prepare.num_workers=0"
        )
    common = Config().data.model_copy(update={"image_size": size})
    sources = {
        "images": open_source(
            common.model_copy(update={"images": f"{folder}/train", "labels": f"{folder}/train.csv"})
        ).source,
        "shards": open_source(common.model_copy(update={"shards": shards})).source,
    }
    sweep = Sweep(np.arange(num_images), BATCH)
    batches = list(local_feed(sources["shards"], sweep, prefetch=1))
    pixels = np.concatenate([batch.pixels_BCSS for batch in batches])
    work: dict[str, Callable[[], None]] = {"shards: memcpy": lambda: copy(sources["shards"], sweep, pixels)}
    for kind, source in sources.items():
        work[f"{kind}: read"] = lambda source=source: read(source, sweep)  # type: ignore[misc]
    for name in MODELS:
        one = shipped(name, size)
        save_model(f"{folder}/{name}/model.safetensors", one.model, one.card)
        member = Member(name, name, one, np.asarray(one.card.thresholds))
        given = Given(ensemble_of([member], InferenceConfig()))
        predictor = Predictor(given, cluster.available_cpus())
        work[f"{name}: model alone"] = lambda predictor=predictor: think(predictor, batches)  # type: ignore[misc]
        for kind, source in sources.items():
            work[f"{name}: {kind}"] = lambda g=given, s=source: predict(g, s, sweep)  # type: ignore[misc]
            words = images[:1] if kind == "images" else [f"data.shards={shards}"]
            work[f"{name}: {kind}, whole command"] = lambda n=name, w=words: verb(folder, n, w)  # type: ignore[misc]
    rates: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if number:  # the first round warms up
                rates[name].append(num_images / (time.perf_counter() - start))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(
        f"{num_images} images of {side} px at {size} px, {torch.get_num_threads()} threads, images/s of {rounds} rounds"
    )
    for name, values in rates.items():
        print(f"  {name:<36}{middle[name]:>10,.0f}   ({min(values):,.0f} to {max(values):,.0f})")
    for name in MODELS:
        for kind in sources:
            parts = middle[f"{kind}: read"], middle[f"{name}: model alone"]
            whole, total = middle[f"{name}: {kind}"], 1 / sum(1 / part for part in parts)
            print(f"  {name}, {kind}: {whole / min(parts):.2f} of the slower part, {whole / total:.2f} of the sum")


if __name__ == "__main__":
    measure(dict(word.split("=", 1) for word in sys.argv[1:]))
