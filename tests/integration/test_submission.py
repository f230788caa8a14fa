"""The csv that the competition wants: 11,702 rows in the order of its sample, none empty, the missing ones named."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bad_data import done
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.checkpoint.model_file import ModelCard, save_model
from hpa_ray.config import ModelConfig
from hpa_ray.labels import NUM_CLASSES, parse_labels
from hpa_ray.manifest import read_ids
from hpa_ray.model import build_model

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_IDS, SIDE, NUM_PICTURES = 11_702, 8, 12


def test_the_whole_test_set(real_data: Path, tmp_path: Path) -> None:
    ids = read_ids(str(real_data / "sample_submission.csv"))
    assert len(ids) == NUM_IDS
    rng, images = np.random.default_rng(0), tmp_path / "test"
    images.mkdir()
    missing = [ids[0], ids[5000], ids[-1]]
    for number in range(NUM_PICTURES):
        for stain in STAINS:
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8)).save(buffer, "PNG")
            (tmp_path / f"{number}_{stain}.png").write_bytes(buffer.getvalue())
    for row, image_id in enumerate(ids):
        for stain in STAINS if image_id not in missing else ():
            os.link(tmp_path / f"{row % NUM_PICTURES}_{stain}.png", images / f"{image_id}_{stain}.png")
    cfg = ModelConfig(name="mlp6")
    facts = {"channels": STAINS, "image_size": SIDE, "mean": [0.5] * 4, "std": [0.3] * 4}
    model = build_model(cfg, num_classes=NUM_CLASSES, seed=0, **facts)  # type: ignore[arg-type]
    card = ModelCard(
        channels=STAINS, image_size=SIDE, model=cfg, run="m", epoch=1, thresholds=(0.5,) * NUM_CLASSES, config=""
    )
    save_model(str(tmp_path / "model.safetensors"), model, card)
    sample = f"predict.submission={real_data}/sample_submission.csv"
    words = [f"predict.run={tmp_path}/model.safetensors", f"data.images={images}", sample, "predict.batch_size=512"]
    said = done("predict", *words, f"predict.output={tmp_path}/out", "data.on_error=quarantine")
    for image_id in missing:
        assert any(line.startswith("left out") and image_id in line for line in said), image_id
    assert "3 rows of submission.csv have no prediction and carry the most frequent label set" in said
    lines = (tmp_path / "out" / "submission.csv").read_text().splitlines()
    assert lines[0] == "Id,Predicted"
    assert [line.split(",")[0] for line in lines[1:]] == ids
    assert all(parse_labels(line.split(",")[1]) for line in lines[1:])
    assert pq.read_metadata(tmp_path / "out" / "predictions.parquet").num_rows == NUM_IDS - 3
    assert pq.read_table(tmp_path / "out" / "rejected.parquet")["image_id"].to_pylist() == sorted(missing)
