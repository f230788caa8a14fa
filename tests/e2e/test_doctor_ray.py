"""`doctor` beside a real Ray cluster: what it finds, what it refuses, and that it leaves nothing behind."""

import json
from pathlib import Path

import pytest

from hpa_ray.cli.main import main

pytestmark = pytest.mark.timeout(300)


def test_a_cluster_is_joined_and_its_node_asked(
    dashboard: str, atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=64"]
    words += ["model.name=resnet18", f"run.storage={tmp_path}/runs", "run.name=a", "storage.secret_key=sesame-key"]
    words += ["storage.access_key=open-key", f"doctor.output={tmp_path}/doctor.json", "doctor.timeout_s=120"]
    assert main(["doctor", *words, "train.num_workers=1"]) == 0, capsys.readouterr()
    told = capsys.readouterr()
    assert "sesame-key" not in told.out + told.err
    result = json.loads((tmp_path / "doctor.json").read_text())
    found = {finding["check"]: finding for finding in result["findings"]}
    assert result["count"]["FAIL"] == 0
    assert found["ray"]["found"].endswith("1 node, 4 CPUs, 0 GPUs, enough for train.num_workers = 1")
    assert found["nodes"]["found"].startswith("1 with the versions of here, clocks within 0.")
    assert found["model"]["found"] == "resnet18: 11.2 million parameters, takes images of 64 px"
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]

    assert main(["doctor", *words, "train.num_workers=64", "train.use_gpu=true"]) == 2
    told = capsys.readouterr()
    failed = [line for line in told.out.splitlines() if line.startswith("FAIL")]
    assert [line.split()[1] for line in failed] == ["ray", "gpus"]
    assert "train.num_workers = 64, but the cluster has 4 CPUs" in failed[0]
    assert told.err.endswith("checks FAIL, listed above\n")
