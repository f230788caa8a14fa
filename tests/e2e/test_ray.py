"""The whole way of the data on a real Ray cluster: the same numbers as without Ray, at any number of workers."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hpa_ray.cli.main import main
from hpa_ray.config import load_config
from hpa_ray.predict import Parts
from hpa_ray.stream import Batch, EpochOrder, Place, Sampling, Schedule, Steps, open_data, ray_feed
from hpa_ray.stream.feed import TASK_BYTES

pytestmark = [
    pytest.mark.timeout(900),
    # Ray's own: sockets and files it leaves to the garbage collector, and calls of its own deprecated parts
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).parents[2]
SMALL = ["model.name=resnet18", "train.epochs=2", "split.parts=0.6/0.2/0.2", "data.image_size=32"]


@pytest.fixture(scope="module")
def images(atlas: Path) -> list[str]:
    return [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv"]


@pytest.fixture(scope="module")
def shards(images: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The atlas as shards, prepared without Ray."""
    folder = str(tmp_path_factory.mktemp("e2e") / "shards")
    assert main(["prepare", *images, "data.image_size=32", f"prepare.output={folder}", "prepare.num_workers=0"]) == 0
    return folder


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def train(shards: str, storage: Path, name: str, *words: str) -> list[dict[str, float]]:
    assert main(["train", f"data.shards={shards}", *SMALL, f"run.storage={storage}", f"run.name={name}", *words]) == 0
    return [json.loads(line) for line in (storage / name / "metrics.jsonl").read_text().splitlines()]


def test_prepare_on_ray_writes_the_same_bytes(dashboard: str, images: list[str], shards: str, tmp_path: Path) -> None:
    output = f"{tmp_path}/shards"
    assert main(["prepare", *images, "data.image_size=32", f"prepare.output={output}"]) == 0
    assert sorted(os.listdir(output)) == sorted(os.listdir(shards))
    for name in os.listdir(output):
        assert Path(output, name).read_bytes() == Path(shards, name).read_bytes(), name


def test_check_on_ray_finds_what_it_finds_here(dashboard: str, images: list[str], tmp_path: Path) -> None:
    found = []
    for number in (0, 2):
        assert main(["check", *images, f"check.output={tmp_path}/{number}", f"check.num_workers={number}"]) == 0
        found.append(json.loads((tmp_path / str(number) / "check.json").read_text()))
    for result in found:
        del result["prepare"]  # holds a time
    assert found[0] == found[1]
    assert found[0]["num_usable"] == 60


@pytest.mark.parametrize("source", ["shards", "images"])
def test_two_readers_get_every_sample_once_and_in_order(
    dashboard: str, shards: str, images: list[str], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpa_ray import cluster
    from hpa_ray.stream import feed

    for name, number in (("ITEMS_PER_TASK", 2), ("PIPELINE_TASKS", 4), ("OVERLAP_TASKS", 2)):
        monkeypatch.setattr(feed, name, number)  # several pipelines, one after the other

    cluster.start_ray()
    words = [f"data.shards={shards}"] if source == "shards" else [*images, "data.image_size=32"]
    data = open_data(load_config([*words, "split.parts=0.6/0.2/0.2"]))
    train_rows, val_rows = data.parts["train"], data.parts["val"]
    order, steps = EpochOrder(len(train_rows), 1, chunk_rows=4), Steps(len(train_rows), 5, 2)
    samples = Sampling(len(train_rows), 0, None)
    schedules = [Schedule(train_rows, val_rows, samples, order, steps, rank, Place(0, steps), 3) for rank in range(2)]
    seen: list[list[Batch]] = [[], []]

    def read(rank: int) -> None:
        seen[rank] = list(ray_feed(data.source, schedules[rank], prefetch=4, batch_bytes=5 * 4 * 32 * 32))

    threads = [threading.Thread(target=read, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    for schedule, batches in zip(schedules, seen, strict=True):
        assert len(batches) == len(schedule)
        for k, batch in enumerate(batches):
            assert (batch.kind, batch.epoch, batch.step) == (schedule[k].kind, schedule[k].epoch, schedule[k].step)
            assert np.array_equal(batch.rows_B, schedule[k].rows_B)
            assert np.array_equal(batch.pixels_BCSS, data.source.read(batch.rows_B).pixels_BCSS)
    for epoch in range(3):
        for kind, rows in (("train", train_rows), ("val", val_rows)):
            mine = [batch for batches in seen for batch in batches if (batch.kind, batch.epoch) == (kind, epoch)]
            assert Counter(int(row) for batch in mine for row in batch.rows_B) == Counter(rows.tolist())


def test_training_that_pauses_is_no_hang_to_ray_data(
    dashboard: str, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpa_ray import cluster

    plain = cluster.data_context

    def impatient(*, in_order: bool = False) -> Any:
        context = plain(in_order=in_order)
        context.execution_no_progress_timeout_s = 1
        context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
            object_store_memory=2**17  # a few blocks: the others wait for the reader
        )
        return context

    monkeypatch.setattr(cluster, "data_context", impatient)
    cluster.start_ray()
    data = open_data(load_config([f"data.shards={shards}", "split.parts=0.6/0.2/0.2"]))
    train_rows, steps = data.parts["train"], Steps(len(data.parts["train"]), 5, 1)
    order = EpochOrder(len(train_rows), 1, chunk_rows=4)
    schedule = Schedule(
        train_rows, data.parts["val"], Sampling(len(train_rows), 0, None), order, steps, 0, Place(0, steps), 12
    )
    seen = 0
    for _ in ray_feed(data.source, schedule, prefetch=1, batch_bytes=TASK_BYTES):
        seen += 1
        if seen == 3:
            time.sleep(6.0)
    assert seen == len(schedule)


def test_one_ray_worker_learns_what_this_process_learns(dashboard: str, shards: str, storage: Path) -> None:
    here = train(shards, storage, "here", "train.num_workers=0", "train.batch_size=8")
    there = train(shards, storage, "there", "train.num_workers=1", "train.batch_size=8")
    for a, b in zip(here, there, strict=True):
        for name in ("train_loss", "map", "auroc", "macro_f1_tuned", "lr"):
            assert b[name] == pytest.approx(a[name], rel=1e-6), name


def test_two_workers_share_the_epoch_and_validate_every_row_once(
    dashboard: str, shards: str, storage: Path, tmp_path: Path
) -> None:
    lines = train(shards, storage, "two", "train.num_workers=2", "train.batch_size=4")
    assert [line["epoch"] for line in lines] == [1, 2]
    run = storage / "two"
    best = max(lines, key=lambda line: line["macro_f1_tuned"])
    assert main(["evaluate", f"evaluate.run={run}", "evaluate.part=val", f"evaluate.output={tmp_path}"]) == 0
    alone, shared = (pq.read_table(folder / "predictions_val.parquet") for folder in (tmp_path, run))
    assert shared["image_id"].to_pylist() == alone["image_id"].to_pylist()
    assert len(set(shared["image_id"].to_pylist())) == 12
    difference = np.abs(np.array(alone["probabilities"].to_pylist()) - np.array(shared["probabilities"].to_pylist()))
    assert difference.max() < 1e-6
    scores = json.loads((tmp_path / "summary_val.json").read_text())
    for name in ("macro_f1", "macro_f1_tuned", "micro_f1", "exact_match", "proportional_accuracy", "map", "auroc"):
        assert scores[name] == pytest.approx(best[name], abs=1e-6), name


def test_a_driver_that_is_told_to_end_stores_where_it_was(dashboard: str, shards: str, storage: Path) -> None:
    """SIGTERM, as from Slurm, Kubernetes or a spot machine, to a program whose training is in two other processes."""
    words = [f"data.shards={shards}", *SMALL, "train.epochs=500", "train.num_workers=2", "train.batch_size=4"]
    words += [f"run.storage={storage}", "run.name=told", "run.resume=true"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hpa_ray.cli", "train", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("epoch   1/500"):
            process.terminate()
    assert process.wait() == 143, said
    assert any("run.resume=true goes on from here" in line for line in said)
    folder = storage / "told"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    stored = len((folder / "metrics.jsonl").read_text().splitlines())
    assert f"stopped on request in epoch {stored + 1}" in summary["reason"]
    assert main(["train", *words, f"train.stop_epoch={stored + 1}"]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, stored + 2))
    assert {(line["num_samples"], line["num_distinct"]) for line in lines} == {(36, 36)}
    assert json.loads((folder / "summary.json").read_text())["status"] == "stopped"


def test_prediction_on_two_actors_is_that_of_one_process(
    dashboard: str, images: list[str], shards: str, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they go on with what that process has begun."""
    monkeypatch.setattr(Parts, "remove", lambda parts: None)  # so that they can be looked at, and taken along
    if not (storage / "here" / "model.safetensors").exists():
        train(shards, storage, "here", "train.num_workers=0", "train.batch_size=8")
    tables = []
    for number in (0, 2):
        output = tmp_path / str(number)
        words = [f"predict.run={storage}/here", images[0], f"predict.output={output}", "predict.batch_size=8"]
        words += ["predict.chunk_images=16", "predict.embeddings=true"]
        taken = output / "parts" / "part-00002.parquet"
        if number:
            taken.parent.mkdir(parents=True)
            for name in ("identity.json", taken.name):
                shutil.copy(tmp_path / "0" / "parts" / name, taken.parent)
            before = taken.stat().st_mtime_ns
        assert main(["predict", *words, f"predict.num_workers={number}"]) == 0
        tables.append(pq.read_table(output / "predictions.parquet"))
    assert taken.stat().st_mtime_ns == before
    assert len(list(taken.parent.glob("*.parquet"))) == 4
    files = [tmp_path / name / "embeddings.parquet" for name in ("0", "2")]
    embeddings = [np.array(pq.read_table(file)["embedding"].to_pylist()) for file in files]
    assert embeddings[0].shape == (60, 512)
    assert np.abs(embeddings[0] - embeddings[1]).max() < 1e-5
    assert tables[0]["image_id"].equals(tables[1]["image_id"])
    first, second = (np.array(table["probabilities"].to_pylist()) for table in tables)
    assert np.abs(first - second).max() < 1e-6


def test_a_bad_file_met_by_a_worker_ends_the_run_and_is_named(
    dashboard: str, atlas: Path, storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for path in (atlas / "train").iterdir():
        (folder / path.name).symlink_to(path)
    words = [f"data.images={folder}", f"data.labels={atlas}/train.csv", *SMALL, f"run.storage={storage}"]
    data = open_data(load_config(words))
    broken = folder / f"{data.ids(data.parts['val'])[-1]}_blue.png"  # the driver looks at training images itself
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[: len(content) // 2])
    words += ["run.name=broken", "train.batch_size=8", "train.num_workers=2"]
    assert main(["train", *words]) == 2
    errors = capsys.readouterr().err.splitlines()
    file, advice = [line for line in errors if line.startswith("hpa-ray train:")]
    assert broken.name in file
    assert "truncated" in file
    assert "data.on_error=quarantine" in advice
    assert json.loads((storage / "broken" / "summary.json").read_text())["status"] == "failed"


def test_a_submitted_job_succeeds_and_its_log_reads_well(dashboard: str, shards: str, storage: Path) -> None:
    submit = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", dashboard]
    job = [sys.executable, "jobs/train.py", f"data.shards={shards}", *SMALL, "train.batch_size=8"]
    command = [*submit, "--working-dir", str(ROOT), "--", *job, f"run.storage={storage}", "run.name=job"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    log = done.stdout
    for text in (
        "training resnet18 on 36 images",
        "epoch   1/2",
        "epoch   2/2",
        "best constant prediction",
        "succeeded",
    ):
        assert text in log, log
    for noise in ("Traceback", "(RayTrainWorker", "(TrainController", "Execution plan", "Progress"):
        assert noise not in log, log
    result = next(line for line in reversed(log.splitlines()) if line.startswith("{"))
    assert json.loads(result)["status"] == "done"
    assert (storage / "job" / "model.safetensors").exists()
