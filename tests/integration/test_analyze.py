"""`analyze` and the look at the end of `train`: files that fit each other, the predictions, and what was asked for."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hpa_ray.analysis import run as analysis_run
from hpa_ray.checkpoint.model_file import load_model
from hpa_ray.cli.main import main
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.schema import GALLERY_ROW, MAP_ROW

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = ("analysis_{}.json", "gallery_{}.parquet", "embeddings_{}.parquet", "figures/embedding_map_{}.png")


@pytest.fixture(scope="module")
def words(shards: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    small = [
        "model.name=resnet18",
        "train.epochs=2",
        "train.batch_size=8",
        "train.num_workers=0",
        "track.pictures=false",
    ]
    storage = tmp_path_factory.mktemp("analyze")
    return [f"data.shards={shards}", f"run.storage={storage}", "split.parts=0.5/0.25/0.25", *small]


@pytest.fixture(scope="module")
def trained(words: list[str]) -> Path:
    assert main(["train", *words, "run.name=trained"]) == 0
    return folder_of(words, "trained")


def folder_of(words: list[str], name: str) -> Path:
    return Path(words[1].partition("=")[2]) / name


def look(run: Path, output: Path, *more: str, part: str = "val") -> dict[str, Any]:
    keys = [f"analyze.run={run}", f"analyze.output={output}", f"analyze.part={part}", "analyze.map=pca"]
    assert main(["analyze", *keys, *more]) == 0
    return read(output, part)


def read(folder: Path, part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"analysis_{part}.json").read_text())
    return found


def test_training_ends_with_a_look_at_the_test_part(trained: Path) -> None:
    assert all((trained / name.format("test")).exists() for name in (*FILES, "figures/confusions_{}.png"))
    found = read(trained, "test")
    assert (found["part"], found["model"], found["gradcam"]) == ("test", "trained", "grad-cam")
    predictions = pq.read_table(trained / "predictions_test.parquet")
    assert found["num_images"] == predictions.num_rows == 15
    assert found["map"]["method"] == "pca"
    assert 0 < sum(found["map"]["explained"]) <= 1
    assert not (trained / "analysis_val.json").exists()


def test_the_gallery_says_what_the_predictions_say(trained: Path) -> None:
    table = pq.read_table(trained / "gallery_test.parquet")
    assert table.schema.equals(GALLERY_ROW)
    by_id = {row["image_id"]: row for row in pq.read_table(trained / "predictions_test.parquet").to_pylist()}
    assert table.num_rows > 10
    for row in table.to_pylist():
        known, k = by_id[row["image_id"]], row["class"]
        assert row["probability"] == pytest.approx(known["probabilities"][k], abs=1e-6)
        assert row["threshold"] == known["thresholds"][k]
        assert (row["truth"], row["labels"]) == (known["truth"], known["labels"])
        assert Image.open(io.BytesIO(row["picture"])).size == (6 * 114 - 2, 112)
        if row["kind"] == "best":
            assert k in row["truth"]
            assert k in row["labels"]


def test_the_embeddings_are_what_the_last_layer_sees(trained: Path) -> None:
    table = pq.read_table(trained / "embeddings_test.parquet")
    assert table.schema.equals(MAP_ROW)
    embedding = np.array(table["embedding"].to_pylist())
    head = load_model(str(trained)).model.head
    logits = embedding @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    predictions = pq.read_table(trained / "predictions_test.parquet")
    assert table["image_id"].equals(predictions["image_id"])
    assert table["truth"].equals(predictions["truth"])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), np.array(predictions["probabilities"].to_pylist()), atol=1e-4)
    assert np.isfinite([table["map_x"].to_numpy(), table["map_y"].to_numpy()]).all()


def test_the_json_fits_the_predictions(trained: Path) -> None:
    found = read(trained, "test")
    rows = pq.read_table(trained / "predictions_test.parquet").to_pylist()
    missed = [sum(k in row["truth"] and k not in row["labels"] for row in rows) for k in range(NUM_CLASSES)]
    assert found["missed_per_class"] == missed
    for pair in found["confusions"]:
        i, j = pair["missed"], pair["predicted"]
        both = [
            row for row in rows
            if i in row["truth"] and i not in row["labels"] and j in row["labels"] and j not in row["truth"]
        ]  # fmt: skip
        assert pair["images"] == len(both) == found["confusion_counts"][i][j] >= 3
        assert pair["lift"] > 1
    truth = {row["image_id"]: row["truth"] for row in rows}
    for error in found["label_errors"]:
        assert error["given"] == (error["class"] in truth[error["image_id"]])
        assert 0 <= error["score"] <= 1
        for near in error["neighbors"]:
            assert near["labels"] == truth[near["image_id"]]
            assert near["image_id"] != error["image_id"]
    assert found["retrieval"]["k"] == 10
    assert len(found["retrieval"]["precision_per_class"]) == NUM_CLASSES


def test_the_same_whether_predictions_are_there_or_not(trained: Path, tmp_path: Path) -> None:
    alone = look(trained, tmp_path, part="test")
    assert alone == read(trained, "test")
    made = pq.read_table(tmp_path / "predictions_test.parquet")
    stored = pq.read_table(trained / "predictions_test.parquet")
    assert made["image_id"].equals(stored["image_id"])
    np.testing.assert_allclose(made["probabilities"].to_pylist(), stored["probabilities"].to_pylist(), atol=1e-6)


def test_predictions_of_another_model_are_not_taken(trained: Path, tmp_path: Path) -> None:
    stored = pq.read_table(trained / "predictions_val.parquet")
    wrong = stored.set_column(3, "model", pa.array(["another"] * stored.num_rows))
    pq.write_table(wrong, tmp_path / "predictions_val.parquet")
    look(trained, tmp_path)
    assert set(pq.read_table(tmp_path / "predictions_val.parquet")["model"].to_pylist()) == {"trained"}
    (tmp_path / "predictions_val.parquet").write_bytes(b"no parquet")
    look(trained, tmp_path)
    assert pq.read_table(tmp_path / "predictions_val.parquet").num_rows == stored.num_rows


def test_of_a_large_part_a_draw_is_embedded_and_all_is_predicted(trained: Path, tmp_path: Path) -> None:
    found = look(trained, tmp_path, "analyze.max_images=6", part="all")
    assert found["num_images"] == 60
    assert pq.read_table(tmp_path / "predictions_all.parquet").num_rows == 60
    assert pq.read_table(tmp_path / "embeddings_all.parquet").num_rows == 6
    assert any("6 of the 60 images" in note for note in found["notes"])


def test_labels_of_training_images_are_doubted_only_by_other_models(trained: Path, tmp_path: Path) -> None:
    found = look(trained, tmp_path, part="train")
    assert found["label_errors"] == []
    assert any("30 images were trained on and are left out" in note for note in found["notes"])
    table = pq.read_table(tmp_path / "predictions_train.parquet")
    truth = np.zeros((table.num_rows, NUM_CLASSES))
    for row, labels in zip(truth, table["truth"].to_pylist(), strict=True):
        row[labels] = 1
    common = int(truth.sum(axis=0).argmax())
    probabilities = np.where(truth, 0.9, 0.1).astype(np.float32)
    doubtful = int(np.flatnonzero(truth[:, common])[0])
    probabilities[doubtful, common] = 0.01
    cells = pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), NUM_CLASSES)
    others = pa.table({"image_id": table["image_id"], "probabilities": cells})
    pq.write_table(others, tmp_path / "folds.parquet")
    found = look(trained, tmp_path, f"analyze.out_of_fold={tmp_path}/folds.parquet", part="train")
    listed = [(error["image_id"], error["class"], error["given"]) for error in found["label_errors"]]
    assert listed == [(table["image_id"][doubtful].as_py(), common, 1)]
    shown = [
        row for row in pq.read_table(tmp_path / "gallery_train.parquet").to_pylist() if row["kind"] == "label_error"
    ]
    assert [row["image_id"] for row in shown] == [listed[0][0]]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"Id,Target\n"])
def test_a_file_of_folds_that_is_none_is_told(
    content: bytes, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folds").write_bytes(content)
    words = [f"analyze.run={trained}", "analyze.part=val", f"analyze.out_of_fold={tmp_path}/folds"]
    assert main(["analyze", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "not a file of predictions" in line


def test_without_grad_cam_and_examples(trained: Path, tmp_path: Path) -> None:
    found = look(trained, tmp_path, "analyze.gradcam=false", "analyze.examples_per_class=1", "analyze.label_errors=0")
    assert found["gradcam"] is None
    rows = pq.read_table(tmp_path / "gallery_val.parquet").to_pylist()
    assert {row["kind"] for row in rows} <= {"best", "worst", "surprising"}
    assert all(Image.open(io.BytesIO(row["picture"])).size == (5 * 114 - 2, 112) for row in rows)
    found = look(trained, tmp_path, "analyze.examples_per_class=0", "analyze.label_errors=0")
    assert pq.read_table(tmp_path / "gallery_val.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("word", "told"), [("analyze.part=test", "no images in it"), ("analyze.run=", "needs analyze.run")]
)
def test_mistakes_are_told(
    word: str, told: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", f"analyze.run={trained}", "split.parts=0.5/0.5", word]) == 2
    assert told in capsys.readouterr().err


def test_a_look_that_fails_does_not_cost_the_run(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object, **more: object) -> None:
        raise RuntimeError("out of\nluck")

    monkeypatch.setattr(analysis_run, "draw_map", broken)
    assert main(["train", *words, "run.name=unlucky", "train.epochs=1"]) == 0
    folder = folder_of(words, "unlucky")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], "test_macro_f1" in summary) == ("done", True)
    assert not (folder / "analysis_test.json").exists()
    said = capsys.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if "could not be looked at" in line]
    assert "RuntimeError: out of luck" in line
    assert "analyze.part=test" in line


def test_a_run_without_a_look(words: list[str]) -> None:
    assert main(["train", *words, "run.name=plain", "train.epochs=1", "track.analysis=false"]) == 0
    assert not (folder_of(words, "plain") / "analysis_test.json").exists()
