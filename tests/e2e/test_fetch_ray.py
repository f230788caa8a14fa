"""`fetch` as Ray Data tasks: the pace holds over all of them, faults are survived, and mistakes come back as such."""

import json
from pathlib import Path

import numpy as np
import pytest
from web_server import Faults, jpeg_of, web_server

from hpa_ray.channels import STAINS
from hpa_ray.cli.main import main

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
RATE = 20


def test_two_tasks_share_the_rate_and_bring_every_file(dashboard: str, tmp_path: Path) -> None:
    ids = [f"{10000 + k}_1_A{k}_1" for k in range(20)]
    labels, output = tmp_path / "labels.csv", tmp_path / "out"
    labels.write_text("Id,Target\n" + "".join(f"{image_id},27 0\n" for image_id in ids))
    with web_server(Faults(share=0.15, seed=4, kinds=("truncate", "reset", "redirect"), most=1)) as server:
        words = [f"fetch.labels={labels}", f"fetch.output={output}", f"fetch.url={server.pattern}"]
        words += [f"fetch.requests_per_s={RATE}", "fetch.num_workers=2"]
        assert main(["fetch", *words]) == 0
        at = np.array([request.at for request in server.requests])
        num_requests = len(at)
        assert main(["fetch", *words]) == 0
        assert len(server.requests) == num_requests
    files = {path.stem: path.read_bytes() for path in output.glob("*.jpg")}
    assert files == {name: jpeg_of(name) for name in (f"{image_id}_{stain}" for image_id in ids for stain in STAINS)}
    found = json.loads((output / "fetch.json").read_text())
    assert (found["finished"], found["num_images"]) == (True, len(ids))
    assert sum(found["retries"].values()) > 0
    assert max(int(((at >= t) & (at < t + 0.9)).sum()) for t in at) <= RATE  # 0.1 s for what delays processes here


def test_a_refusal_ends_the_tasks(dashboard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("Id,Target\n" + "".join(f"{10000 + k}_1_A1_1,27\n" for k in range(100)))
    with web_server(Faults(always={"*": "403"})) as server:
        words = [f"fetch.labels={labels}", f"fetch.output={tmp_path}/out", f"fetch.url={server.pattern}"]
        assert main(["fetch", *words, "fetch.requests_per_s=40", "fetch.num_workers=2"]) == 2
        assert "the server does not want this" in capsys.readouterr().err
        assert len(server.requests) < 80
