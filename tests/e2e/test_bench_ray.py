"""`bench` in two Ray Train workers: their own feeds, DDP, and the same number of steps on both."""

import json
from pathlib import Path

import pytest

from hpa_ray.cli.main import main

pytestmark = [
    pytest.mark.timeout(400),
    # Ray's own: sockets and files it leaves to the garbage collector, and calls of its own deprecated parts
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_two_workers_read_train_and_do_both(
    dashboard: str, shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.shards={shards}", "model.name=resnet18", "train.num_workers=2", "train.batch_size=8"]
    words += ["train.use_gpu=false", "train.accumulate=2", "bench.seconds=1", f"bench.output={tmp_path}/out"]
    assert main(["bench", *words]) == 0, capsys.readouterr()
    assert "in 2 Ray Train workers" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert result["num_workers"] == 2
    assert result["where"].startswith("2 x ")
    for phase in ("train", "read", "both"):
        found = result[phase]
        assert found["seconds"] >= 1
        assert found["images_per_s_per_worker"] == pytest.approx(found["images_per_s"] / 2, abs=0.01)
    assert result["first_batch_s"] > 0
    assert result["verdict"]["reading_cpus"] == 2  # of four, less one for each worker


def test_a_mistake_that_only_a_worker_finds(dashboard: str, shards: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"data.shards={shards}", "model.name=mlp6", "train.sizes=16,32", "train.epochs=2", "bench.seconds=1"]
    assert main(["bench", *words, "train.num_workers=1"]) == 2
    assert "can not take images of 16 px" in capsys.readouterr().err
