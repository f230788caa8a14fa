"""Event files, MLflow and W&B get what metrics.jsonl has, also over a stop, and none of them can cost a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli.main import main
from hpa_ray.config import Config, load_config
from hpa_ray.errors import InputError
from hpa_ray.train.track import scalars, tracking

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)

NAMES = {
    "train/loss",
    "val/loss",
    "val/macro_f1",
    "train/macro_f1",
    "train/lr",
    "val/micro_f1_tuned",
    "speed/images_per_s",
}


def line(epoch: int) -> dict[str, Any]:
    scores = {"macro_f1": 0.1 * epoch, "micro_f1_tuned": 0.2, "map": None, "num_present_classes": 28}
    speed = {"lr": 0.01, "images_per_s": 9.5, "wall_s": 2.0 * epoch, "storage_retries": 0}
    return {"epoch": epoch, "train_loss": 1 / epoch, "val_loss": 2 / epoch, "train_macro_f1": 0.3, **scores, **speed}


def track(config: Config, folder: RunFolder, epochs: range) -> list[str]:
    """What a run of these epochs tells its trackers and, at the end of each, its folder."""
    said: list[str] = []
    with tracking(config, folder, said.append) as tell:
        for epoch in epochs:
            folder.write_metrics([*folder.read_metrics(), line(epoch)])
            tell({"event": "epoch", **line(epoch)})
    return said


def test_a_line_has_its_place_under_train_val_or_speed() -> None:
    found = scalars(line(2))
    assert set(found) >= NAMES
    assert found["val/macro_f1"] == 0.2
    assert "val/map" not in found
    assert "val/epoch" not in found


def test_event_files_hold_every_epoch_once_also_after_a_stop(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    assert track(load_config([]), folder, range(1, 4)) == []
    assert track(load_config([]), folder, range(4, 6)) == []
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= NAMES
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert [event.value for event in events.Scalars("val/loss")] == pytest.approx([2 / k for k in range(1, 6)])
    assert (tmp_path / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_mlflow_has_settings_and_scores_and_one_run_for_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the only store that needs no server
    uri = f"file://{tmp_path}/mlruns"
    config = load_config(["run.name=tracked", f"track.mlflow={uri}", "loss.name=asl", "storage.secret_key=hush"])
    folder = RunFolder(str(tmp_path / "run"))
    assert track(config, folder, range(1, 3)) == []
    assert track(config, folder, range(3, 4)) == []
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("hpa_ray")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("tracked", "FINISHED")
    assert run.data.params["loss.name"] == "asl"
    assert [point.value for point in client.get_metric_history(run.info.run_id, "val/loss")] == pytest.approx(
        [2, 1, 2 / 3]
    )
    assert not any("hush" in path.read_text(errors="ignore") for path in tmp_path.rglob("*") if path.is_file())


def test_wandb_offline_writes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    config = load_config(["run.name=tracked", "track.wandb=hpa", "storage.secret_key=hush"])
    assert track(config, RunFolder(str(tmp_path / "run")), range(1, 3)) == []
    (record,) = tmp_path.rglob("*.wandb")
    content = record.read_bytes()
    assert b"val/macro_f1" in content
    assert b"hush" not in content


def test_a_tracker_that_can_not_be_had_is_a_mistake_at_the_start(tmp_path: Path) -> None:
    config = load_config(["run.name=x", "track.mlflow=nonsense://nowhere"])
    with pytest.raises(InputError, match=r"track\.mlflow = nonsense://nowhere: can not be used"):
        track(config, RunFolder(str(tmp_path)), range(1, 2))


def test_a_tracker_that_fails_later_does_not_cost_the_run(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where a folder should be")
    said = track(load_config([]), RunFolder(str(tmp_path)), range(1, 4))
    assert len(said) == 1
    assert said[0].startswith("note: TensorBoard failed and is left out from here on (")


def test_a_run_leaves_curves_and_events(atlas: Path, tmp_path: Path) -> None:
    words = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32", "model.name=mlp6"]
    words += ["train.num_workers=0", "train.epochs=2", f"run.storage={tmp_path}", "run.name=a", "split.parts=0.6/0.4"]
    assert main(["train", *words]) == 0
    events = EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    events.Reload()
    lines = [json.loads(text) for text in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    found = [event.value for event in events.Scalars("train/loss")]
    assert found == pytest.approx([entry["train_loss"] for entry in lines])
    assert (tmp_path / "a" / "figures" / "curves.png").exists()
    assert main(["train", *words, "run.name=b", "track.tensorboard=false"]) == 0
    assert not (tmp_path / "b" / "tensorboard").exists()
