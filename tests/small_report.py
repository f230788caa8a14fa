"""Small run folders for tests of the page: predictions of known quality, and what an analysis leaves beside them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.checkpoint.results import all_scores, floor_scores, write_results
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import dump_config, load_config
from hpa_ray.figures.colour import merge_rgb, pseudo_colour, stretch
from hpa_ray.labels import CLASS_TABLE, NUM_CLASSES, multi_hot
from hpa_ray.metrics import tune_thresholds
from hpa_ray.schema import GALLERY_ROW
from hpa_ray.synth import draw_label_sets

KINDS = ("best", "worst", "surprising")


def small_truth(num_images: int, *, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Ids and (N, 28) labels as rare and as common as those of the atlas."""
    return [f"image-{seed}-{number:05d}" for number in range(num_images)], multi_hot(
        draw_label_sets(num_images, seed=seed)
    ).astype(bool)


def probabilities_for(targets_NK: np.ndarray, *, skill: float, seed: int = 0) -> np.ndarray:
    """(N, 28) in (0, 1), right more often the larger `skill` is; 0 knows nothing but how common a class is."""
    share_K = np.array([count for _, count in CLASS_TABLE]) / 31072
    noise_NK = np.random.default_rng(seed).normal(size=targets_NK.shape)
    return 1 / (1 + np.exp(-(np.log(share_K / (1 - share_K)) + skill * targets_NK + noise_NK)))


def write_run(
    folder: Path, *words: str, num_images: int = 120, skill: float = 4.0, seed: int = 1, epochs: int = 4
) -> Path:
    """A run folder as `train` leaves it, but for the model: both parts, their scores and curves."""
    run = RunFolder(str(folder))
    config = load_config([f"run.name={folder.name}", f"train.epochs={epochs}", *words])
    run.write_text("config.yaml", dump_config(config))
    scores: dict[str, Any] = {}
    rare_K = np.array([count for _, count in CLASS_TABLE]) < 310
    thresholds = np.full(NUM_CLASSES, 0.5)
    for part in ("val", "test"):
        ids, targets = small_truth(num_images, seed=5 if part == "val" else 6)
        probabilities = probabilities_for(targets, skill=skill, seed=seed)
        if part == "val":
            thresholds = tune_thresholds(probabilities, targets)
        write_results(run, part, ids, probabilities, targets, thresholds, folder.name)
        found = all_scores(probabilities, targets, probabilities >= thresholds, rare_K) | floor_scores(targets)
        found["num_images"] = num_images
        scores |= {name if part == "val" else f"test_{name}": value for name, value in found.items()}
    lines = [
        {
            "epoch": epoch,
            "train_loss": 0.4 / epoch,
            "val_loss": 0.45 / epoch**0.8,
            "macro_f1": 0.5 * epoch / epochs,
            "macro_f1_tuned": 0.6 * epoch / epochs,
            "train_macro_f1": 0.55 * epoch / epochs,
            "map": 0.7 * epoch / epochs,
            "images_per_s": 50.0 + epoch,
            "data_wait_pct": 1.5,
            "first_batch_s": 0.02,
            "lr": 1e-3 / epoch,
            "wall_s": 10.0 * epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    run.write_metrics(lines)
    times = {"best_epoch": epochs, "epochs": epochs, "wall_s": 10.0 * epochs, "num_train_images": 8 * num_images}
    run.write_json("summary.json", {"status": "done", "part": "val", **scores, **times, "storage_retries": 0})
    packages = {"hpa-ray": "0.1.0", "torch": "2.15.0"}
    machine = {"python": "3.11.7", "platform": "Linux", "cpus": 2, "gpus": [], "packages": packages}
    run.write_json("environment.json", machine | {"command": ["hpa-ray", "train", f"run.name={folder.name}", *words]})
    return folder


def strip(image_CSS: np.ndarray, *, side_px: int = 112) -> bytes:
    """A picture of the gallery: stains merged, each stain, and where a model might have looked, 2 px apart."""
    bright = stretch(image_CSS)
    panels = [merge_rgb(image_CSS), *(pseudo_colour(bright[n], stain) for n, stain in enumerate(STAINS))]
    y, x = np.mgrid[-1 : 1 : complex(len(bright[0])), -1 : 1 : complex(len(bright[0]))]
    heat = np.exp(-3 * (x**2 + y**2))[..., None] * np.array([255, 60, 0])
    panels.append(np.clip(merge_rgb(image_CSS) * 0.5 + heat * 0.5, 0, 255).astype(np.uint8))
    page = Image.new("RGB", (len(panels) * (side_px + 2) - 2, side_px), (255, 255, 255))
    for place, panel in enumerate(panels):
        page.paste(Image.fromarray(panel).resize((side_px, side_px)), (place * (side_px + 2), 0))
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def add_analysis(folder: Path, images: Path, *, per_kind: int = 1) -> Path:
    """What an analysis of the test part would leave, with pictures of the images in a folder of the atlas's form."""
    table = pq.read_table(folder / "predictions_test.parquet")
    names = sorted({path.name.rsplit("_", 1)[0] for path in images.glob("*_green.png")})
    pictures = [
        strip(np.stack([np.asarray(Image.open(images / f"{name}_{stain}.png")) for stain in STAINS]))
        for name in names[:24]
    ]
    rows: list[dict[str, Any]] = []
    predictions = table.to_pylist()
    for k in range(NUM_CLASSES):
        having = [row for row in predictions if k in row["truth"]] or predictions[:1]
        for number, kind in enumerate(KINDS):
            for turn in range(per_kind):
                row = having[(number + turn) % len(having)]
                rows.append(
                    {
                        "image_id": row["image_id"],
                        "kind": kind,
                        "class": k,
                        "probability": row["probabilities"][k],
                        "threshold": row["thresholds"][k],
                        "truth": row["truth"],
                        "labels": row["labels"],
                        "picture": pictures[len(rows) % len(pictures)],
                    }
                )
    pq.write_table(pa.Table.from_pylist(rows, schema=GALLERY_ROW), folder / "gallery_test.parquet")
    near = [{"image_id": row["image_id"], "labels": row["truth"]} for row in predictions[:3]]
    analysis = {
        "part": "test",
        "num_images": len(predictions),
        "model": folder.name,
        "map": {"method": "pca", "explained": [0.31, 0.12]},
        "confusions": [{"missed": 2, "predicted": 0, "images": 7, "share": 0.4, "lift": 1.9}],
        "label_errors": [
            {
                "image_id": row["image_id"],
                "class": 0,
                "given": 1,
                "probability": 0.03,
                "score": 0.9,
                "neighbors": near,
            }
            for row in predictions[:5]
        ],
        "retrieval": {"k": 10, "precision_per_class": [0.5] * 27 + [None], "mean": 0.5},
        "gradcam": "grad-cam",
        "notes": [],
    }
    (folder / "analysis_test.json").write_text(json.dumps(analysis))
    rng = np.random.default_rng(0)
    columns = {
        "image_id": [row["image_id"] for row in predictions],
        "truth": [row["truth"] for row in predictions],
        "embedding": [[0.0, 1.0]] * len(predictions),
        "map_x": rng.normal(size=len(predictions)).astype(np.float32),
        "map_y": rng.normal(size=len(predictions)).astype(np.float32),
    }
    pq.write_table(pa.table(columns), folder / "embeddings_test.parquet")
    return folder
