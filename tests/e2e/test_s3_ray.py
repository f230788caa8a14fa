"""Buckets on a real Ray cluster: workers use the keys of the driver, and hand back how often they had to repeat."""

import json
import tempfile
from pathlib import Path

import pytest
from object_store import ACCESS_KEY, SECRET_KEY, Faults, object_store

from hpa_ray import storage
from hpa_ray.cli.main import main
from hpa_ray.storage import list_files, read_bytes

pytestmark = [
    pytest.mark.timeout(900),
    # Ray's own: sockets and files it leaves to the garbage collector, and calls of its own deprecated parts
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def session_of_ray() -> Path:
    """Where Ray keeps its logs and events."""
    import ray

    return Path(tempfile.gettempdir(), "ray", ray.get_runtime_context().get_session_name())


def files_with(text: bytes, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [path for path in files if text in path.read_bytes()]


def test_prepare_and_train_in_a_bucket_that_fails_now_and_then(
    dashboard: str, atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cluster was started without any word of the store: workers know only what the driver sends along."""
    images = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32"]
    assert main(["prepare", *images, f"prepare.output={tmp_path}/shards", "prepare.num_workers=0"]) == 0
    capsys.readouterr()
    with object_store(Faults(slow_down=0.05, cut=0.03, reset=0.03, seed=7)) as store:
        store.create_bucket("hpa")
        store.put("hpa", "train.csv", (atlas / "train.csv").read_bytes())
        for path in (atlas / "train").iterdir():
            store.put("hpa", f"train/{path.name}", path.read_bytes())
        keys = [
            *(f"storage.endpoint={store.proxy_endpoint}", f"storage.access_key={ACCESS_KEY}"),
            *(f"storage.secret_key={SECRET_KEY}", "storage.region=us-east-1", "storage.max_attempts=10"),
        ]
        there = ["data.images=s3://hpa/train", "data.labels=s3://hpa/train.csv", "data.image_size=32"]
        try:
            assert main(["prepare", *there, "prepare.output=s3://hpa/shards", *keys], json_line=True) == 0
            prepared = json.loads(capsys.readouterr().out.splitlines()[-1])
            injected = sum(store.counts.faults.values())
            assert prepared["storage_retries"] >= injected > 10
            for name in list_files("s3://hpa/shards").keys() - {"index.json"}:
                assert read_bytes(f"s3://hpa/shards/{name}") == (tmp_path / "shards" / name).read_bytes(), name

            store.reset_counts()
            words = ["model.name=resnet18", "train.epochs=1", "split.parts=0.6/0.4", "train.num_workers=2"]
            words += ["data.shards=s3://hpa/shards", "train.batch_size=4", "run.storage=s3://hpa/runs", "run.name=two"]
            assert main(["train", *words, *keys], json_line=True) == 0
            trained = json.loads(capsys.readouterr().out.splitlines()[-1])
            assert trained["storage_retries"] > 0
            assert trained["num_images"] == 24
            assert list_files("s3://hpa/runs/two/checkpoints").keys() == {"epoch-0001.pt"}
            assert files_with(SECRET_KEY.encode(), session_of_ray()) == []
        finally:
            storage.configure(storage.Settings())
            storage.take_retries()
