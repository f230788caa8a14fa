"""Cross-validation: every image once by a model that has not seen it, resumable, and an ensemble in the end."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bad_data import done, refused
from sklearn.metrics import average_precision_score, f1_score

from hpa_ray.checkpoint.model_file import load_model
from hpa_ray.labels import multi_hot
from hpa_ray.metrics import tune_thresholds
from hpa_ray.schema import NEIGHBOR_ROW, PREDICTION_ROW

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("train.num_workers=0", "model.name=mlp6", "train.epochs=2", "train.batch_size=8", "optim.warmup_epochs=0")
QUIET = ("track.pictures=false", "track.tensorboard=false", "crossval.folds=3")


def command(shards: str, storage: Path, *more: str) -> list[str]:
    return ["crossval", f"data.shards={shards}", *SMALL, *QUIET, f"run.storage={storage}", "run.name=cv", *more]


@pytest.fixture(scope="module")
def storage(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crossval")
    done(*command(shards, folder))
    return folder


def predictions(path: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Ids, probabilities, thresholds and truth."""
    table = pq.read_table(path)
    assert table.schema.equals(PREDICTION_ROW)
    columns = (np.array(table[name].to_pylist(), np.float64) for name in ("probabilities", "thresholds"))
    return table["image_id"].to_pylist(), *columns, multi_hot(table["truth"].to_pylist())


def test_every_image_once_by_the_fold_that_has_not_seen_it(storage: Path) -> None:
    cv = storage / "cv"
    fold_of = dict(line.split(",") for line in (cv / "folds.csv").read_text().splitlines()[1:])
    ids, probabilities, thresholds, truth = predictions(cv / "predictions_oof.parquet")
    assert sorted(ids) == sorted(fold_of)
    assert len(set(ids)) == 60
    for fold in range(3):
        own_ids, own, *_ = predictions(cv / "folds" / str(fold) / "predictions_val.parquet")
        assert {name for name in ids if fold_of[name] == str(fold)} == set(own_ids)
        rows = [ids.index(name) for name in own_ids]
        assert np.array_equal(probabilities[rows], own)
        others = np.array([fold_of[name] != str(fold) for name in ids])
        expected = tune_thresholds(probabilities[others], truth[others])
        assert np.abs(thresholds[rows] - expected).max() < 1e-6
    summary = json.loads((cv / "summary.json").read_text())
    assert (summary["kind"], summary["folds"], summary["num_images"]) == ("crossval", 3, 60)
    assert summary["macro_f1"] == pytest.approx(f1_score(truth, probabilities >= 0.5, average="macro", zero_division=0))
    tuned = f1_score(truth, probabilities >= thresholds, average="macro", zero_division=0)
    assert summary["macro_f1_tuned"] == pytest.approx(tuned)
    present = truth.any(axis=0)
    assert summary["map"] == pytest.approx(average_precision_score(truth[:, present], probabilities[:, present]))
    scores = [json.loads((cv / "folds" / str(k) / "summary.json").read_text())["map"] for k in range(3)]
    assert [line["map"] for line in summary["fold_scores"]] == scores
    assert summary["mean_map"] == pytest.approx(np.mean(scores))
    assert summary["std_map"] == pytest.approx(np.std(scores, ddof=1))
    stored = json.loads((cv / "thresholds.json").read_text())["per_class"]["thresholds"]
    assert np.allclose(stored, tune_thresholds(probabilities, truth))
    assert len((cv / "per_class_oof.csv").read_text().splitlines()) == 29


def test_the_folder_predicts_as_the_mean_of_its_folds(storage: Path, atlas: Path, tmp_path: Path) -> None:
    cv, images = storage / "cv", f"data.images={atlas}/train"
    each = []
    for fold in range(3):
        done("predict", f"predict.run={cv}/folds/{fold}", images, f"predict.output={tmp_path}/{fold}")
        each.append(np.array(pq.read_table(tmp_path / str(fold) / "predictions.parquet")["probabilities"].to_pylist()))
    done("predict", f"predict.run={cv}", images, f"predict.output={tmp_path}/all")
    table = pq.read_table(tmp_path / "all" / "predictions.parquet")
    assert np.abs(np.array(table["probabilities"].to_pylist()) - np.mean(each, axis=0)).max() < 1e-6
    assert set(table["model"].to_pylist()) == {"cv"}
    stored = json.loads((cv / "thresholds.json").read_text())["per_class"]["thresholds"]
    assert np.abs(np.array(table["thresholds"][0].as_py()) - stored).max() < 1e-6
    listed = ",".join(f"{cv}/folds/{fold}" for fold in range(3))
    done("predict", f"predict.run={listed}", images, f"predict.output={tmp_path}/listed")
    own = [load_model(f"{cv}/folds/{fold}").card.thresholds for fold in range(3)]
    table = pq.read_table(tmp_path / "listed" / "predictions.parquet")
    assert np.abs(np.array(table["thresholds"][0].as_py()) - np.mean(own, axis=0)).max() < 1e-6


def test_an_ensemble_is_evaluated_only_on_what_none_has_seen(storage: Path, shards: str, tmp_path: Path) -> None:
    words = ("evaluate", f"evaluate.run={storage}/cv", f"evaluate.output={tmp_path}", "evaluate.part=val")
    (told,) = refused(*words)
    assert "the models were trained on different splits" in told
    done(*words, f"data.shards={shards}", "evaluate.part=all", "inference.combine=or", "inference.tta=dihedral")
    summary = json.loads((tmp_path / "summary_all.json").read_text())
    assert (summary["num_images"], summary["num_models"], summary["run"]) == (60, 3, "cv")
    assert summary["inference"]["combine"] == "or"
    table = pq.read_table(tmp_path / "predictions_all.parquet")
    labels, truth = multi_hot(table["labels"].to_pylist()), multi_hot(table["truth"].to_pylist())
    assert summary["macro_f1_tuned"] == pytest.approx(f1_score(truth, labels, average="macro", zero_division=0))


def test_it_goes_on_with_what_is_missing(storage: Path, shards: str, tmp_path: Path) -> None:
    (told,) = refused(*command(shards, storage))
    assert "there is a run of this name already" in told
    (told,) = refused(*command(shards, storage, "run.resume=true", "crossval.folds=4"))
    assert "crossval.folds: 3 there, 4 here" in told
    cv = storage / "cv"
    before = predictions(cv / "predictions_oof.parquet")
    models = {fold: (cv / "folds" / str(fold) / "model.safetensors").stat().st_mtime_ns for fold in range(3)}
    for path in sorted((cv / "folds" / "1").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (cv / "thresholds.json").unlink()
    (told,) = refused("predict", f"predict.run={cv}", f"data.shards={shards}", f"predict.output={tmp_path}")
    assert "its cross-validation is not finished - go on with it by run.resume=true" in told
    said = done(*command(shards, storage, "run.resume=true"))
    assert said[0] == "fold 1 of 3 was finished before"
    for fold in (0, 2):
        assert (cv / "folds" / str(fold) / "model.safetensors").stat().st_mtime_ns == models[fold]
    after = predictions(cv / "predictions_oof.parquet")
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])


def test_a_test_part_is_in_no_fold_and_judges_the_ensemble(shards: str, tmp_path: Path, storage: Path) -> None:
    ids = sorted(line.split(",")[0] for line in (storage / "cv" / "folds.csv").read_text().splitlines()[1:])
    parts = ["test" if row % 5 == 0 else "val" if row % 5 == 1 else "train" for row in range(60)]
    rows = "".join(f"{name},{part}\n" for name, part in zip(ids, parts, strict=True))
    (tmp_path / "split.csv").write_text("Id,split\n" + rows)
    done(*command(shards, tmp_path, f"data.split={tmp_path}/split.csv", "train.epochs=1"))
    dealt = {line.split(",")[0] for line in (tmp_path / "cv" / "folds.csv").read_text().splitlines()[1:]}
    assert dealt == {name for name, part in zip(ids, parts, strict=True) if part != "test"}
    summary = json.loads((tmp_path / "cv" / "summary.json").read_text())
    assert (summary["num_images"], summary["test_num_images"], summary["test_num_models"]) == (48, 12, 3)


def test_neighbours_in_the_training_part_of_a_run(storage: Path, shards: str, tmp_path: Path) -> None:
    run, words = storage / "cv" / "folds" / "0", ["predict.neighbors=3", f"data.shards={shards}"]
    (told,) = refused("predict", f"predict.run={storage}/cv", *words, f"predict.output={tmp_path}/no")
    assert "predict.embeddings and predict.neighbors are of one model" in told
    done("predict", f"predict.run={run}", *words, f"predict.output={tmp_path}/out")
    rows = pq.read_table(tmp_path / "out" / "neighbors.parquet")
    assert rows.schema.equals(NEIGHBOR_ROW)
    fold_of = dict(line.split(",") for line in (storage / "cv" / "folds.csv").read_text().splitlines()[1:])
    stored = pq.read_table(run / "neighbors_train.parquet")
    assert set(stored["image_id"].to_pylist()) == {name for name, fold in fold_of.items() if fold != "0"}
    vectors = dict(zip(stored["image_id"].to_pylist(), np.array(stored["embedding"].to_pylist()), strict=True))
    for row in rows.to_pylist():
        assert len(row["neighbor_id"]) == 3
        assert row["image_id"] not in row["neighbor_id"]
        if (own := vectors.get(row["image_id"])) is not None:
            cosine = {
                name: own @ other / (np.linalg.norm(own) * np.linalg.norm(other) or 1)
                for name, other in vectors.items()
                if name != row["image_id"]
            }
            assert row["similarity"] == pytest.approx(sorted(cosine.values(), reverse=True)[:3], abs=1e-5)
    written = (run / "neighbors_train.parquet").stat().st_mtime_ns
    done("predict", f"predict.run={run}", *words, f"predict.output={tmp_path}/again")
    assert (run / "neighbors_train.parquet").stat().st_mtime_ns == written
