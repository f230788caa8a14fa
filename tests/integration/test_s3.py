"""The whole way of the data in a bucket, while the service throttles, stalls, resets and cuts answers short.

The service is real (moto, in a process of its own); the proxy before it injects the faults. What comes out must be what
comes out of a disk, bit for bit, and every repeated request must be counted.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import ACCESS_KEY, SECRET_KEY, Faults, ObjectStore, object_store
from small_report import write_run

from hpa_ray import storage
from hpa_ray.cli.main import main
from hpa_ray.report import report_page
from hpa_ray.storage import list_files, read_bytes

FAULTS = Faults(slow_down=0.06, stall=0.01, stall_s=3.0, cut=0.03, reset=0.03, seed=5)
SMALL = [
    *("model.name=resnet18", "train.epochs=2", "split.parts=0.6/0.2/0.2", "data.image_size=32"),
    *("train.num_workers=0", "train.batch_size=8"),
]


@pytest.fixture(scope="module")
def store(atlas: Path) -> Iterator[ObjectStore]:
    """A bucket that holds the atlas."""
    with object_store() as running:
        running.create_bucket("hpa")
        running.put("hpa", "train.csv", (atlas / "train.csv").read_bytes())
        for path in (atlas / "train").iterdir():
            running.put("hpa", f"train/{path.name}", path.read_bytes())
        yield running


@pytest.fixture
def faulty(store: ObjectStore) -> Iterator[ObjectStore]:
    """The same while it fails now and then."""
    store.reset_counts()
    store.faults = FAULTS
    yield store
    store.faults = Faults()
    storage.configure(storage.Settings())
    storage.take_retries()


def keys(store: ObjectStore) -> list[str]:
    """How to get there, as a user says it."""
    return [
        *(f"storage.endpoint={store.proxy_endpoint}", f"storage.access_key={ACCESS_KEY}", "storage.region=us-east-1"),
        *(f"storage.secret_key={SECRET_KEY}", "storage.timeout_s=1.5", "storage.max_attempts=10"),
    ]


def done(capsys: pytest.CaptureFixture[str], verb: str, *words: str) -> dict[str, Any]:
    """The result of a verb."""
    code = main([verb, *words], json_line=True)
    said = capsys.readouterr()
    assert code == 0, said.err
    result: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def local(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the same commands leave on a disk: shards/ and runs/."""
    root = tmp_path_factory.mktemp("local")
    images = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32"]
    assert main(["prepare", *images, f"prepare.output={root}/shards", "prepare.num_workers=0"]) == 0
    for name, data in (("shards", [f"data.shards={root}/shards"]), ("images", images)):
        assert main(["train", *data, *SMALL, f"run.storage={root}/runs", f"run.name={name}"]) == 0
    return root


def test_prepare_from_bucket_to_bucket_writes_the_same_bytes(
    faulty: ObjectStore, local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = ["data.images=s3://hpa/train", "data.labels=s3://hpa/train.csv", "data.image_size=32"]
    result = done(capsys, "prepare", *images, "prepare.output=s3://hpa/shards", "prepare.num_workers=0", *keys(faulty))
    injected = faulty.counts.faults
    assert min(injected[kind] for kind in ("slow_down", "cut", "reset")) > 0, injected
    assert result["storage_retries"] >= sum(injected.values()) > 10  # a client may see one fault as two
    assert result["num_rejected"] == 0

    faulty.faults = Faults()
    there = list_files("s3://hpa/shards")
    assert there == list_files(str(local / "shards")) | {"index.json": there["index.json"]}
    for name in there.keys() - {"index.json"}:
        assert read_bytes(f"s3://hpa/shards/{name}") == (local / "shards" / name).read_bytes(), name
    ours, theirs = (json.loads(read_bytes(f"{folder}/index.json")) for folder in ("s3://hpa/shards", local / "shards"))
    for index in (ours, theirs):  # where the files lay is a part of the fingerprint and of the name
        del index["fingerprint"], index["sources"][0]["name"], index["checksum"]
    assert ours == theirs


@pytest.mark.parametrize("data", ["shards", "images"])
def test_a_run_in_a_bucket_is_the_run_on_a_disk(
    faulty: ObjectStore, local: Path, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    if data == "shards":
        faulty.faults = Faults()
        for path in (local / "shards").iterdir():
            faulty.put("hpa", f"local-shards/{path.name}", path.read_bytes())
        faulty.faults = FAULTS
        words = ["data.shards=s3://hpa/local-shards"]
    else:
        words = ["data.images=s3://hpa/train", "data.labels=s3://hpa/train.csv"]
    words += [*SMALL, "run.storage=s3://hpa/runs", f"run.name={data}", *keys(faulty)]
    result = done(capsys, "train", *words)
    injected = sum(faulty.counts.faults.values())
    assert (
        result["storage_retries"] >= injected - 1 > 0
    )  # a large file's first answer is not read to its end: the model

    faulty.faults = Faults()
    run, before = f"s3://hpa/runs/{data}", local / "runs" / data
    assert list_files(run).keys() == {path.name for path in before.iterdir() if path.is_file()}
    assert sorted(list_files(f"{run}/checkpoints")) == ["epoch-0001.pt", "epoch-0002.pt"]
    for line, expected in zip(metrics(run), metrics(str(before)), strict=True):
        for name in ("train_loss", "map", "macro_f1_tuned", "auroc"):
            assert line[name] == expected[name], name
    assert SECRET_KEY.encode() not in b"".join(read_bytes(f"{run}/{name}") for name in list_files(run))

    more = ["train.epochs=3", "run.resume=true"]
    faulty.faults = FAULTS
    refused = main(["train", *words, *more])
    assert refused == 2  # another number of epochs is another run
    assert "train.epochs: 2 there, 3 here" in capsys.readouterr().err
    resumed = done(capsys, "train", *words, "run.resume=true")
    assert resumed["epochs"] == 2


def metrics(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_bytes(f"{run}/metrics.jsonl").decode().splitlines()]


def test_predictions_and_checks_work_in_a_bucket(
    faulty: ObjectStore, local: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in faulty.environment().items():  # here by the usual variables
        monkeypatch.setenv(name, value)
    words = ["data.images=s3://hpa/train", "storage.timeout_s=1.5", "storage.max_attempts=10"]
    checked = done(capsys, "check", *words, "data.labels=s3://hpa/train.csv", "check.output=s3://hpa/checked")
    assert (checked["num_usable"], checked["num_problems"]) == (60, 0)
    assert "<html" in read_bytes("s3://hpa/checked/check.html").decode()[:500]
    predicted = done(capsys, "predict", *words, f"predict.run={local}/runs/shards", "predict.output=s3://hpa/predicted")
    assert predicted["num_images"] == 60
    assert list_files("s3://hpa/predicted").keys() == {"predictions.parquet", "submission.csv"}


def test_a_store_that_stays_down_is_told_in_a_line(
    store: ObjectStore, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store.faults = Faults(slow_down=1.0, max_in_a_row=None)
    words = ["data.images=s3://hpa/train", "data.labels=s3://hpa/train.csv", f"prepare.output={tmp_path}/out"]
    try:
        code = main(["prepare", *words, *keys(store), "storage.max_attempts=2", "prepare.num_workers=0"])
    finally:
        store.faults = Faults()
        storage.configure(storage.Settings())
        storage.take_retries()
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "s3://hpa/train.csv" in line
    assert "2 attempts" in line


def test_the_page_of_a_run_in_a_bucket_is_that_of_a_disk(
    faulty: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "one", num_images=40)
    for path in folder.iterdir():
        faulty.put("hpa", f"pages/one/{path.name}", path.read_bytes())
    result = done(capsys, "report", *keys(faulty), "report.run=s3://hpa/pages/one")
    assert result["output"] == "s3://hpa/pages/one/report.html"
    assert read_bytes(result["output"]).decode() == report_page([str(folder)])
