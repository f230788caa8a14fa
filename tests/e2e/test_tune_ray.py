"""A study on a real Ray cluster: trials in warm processes, stops, a failure, an answer, and going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from hpa_ray.cli.main import main

pytestmark = [
    pytest.mark.timeout(900),
    # Ray's own: sockets and files it leaves to the garbage collector, and calls of its own deprecated parts
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SMALL = [
    *("model.name=shufflenet_v2_x0_5", "train.epochs=3", "split.parts=30/15/15", "optim.warmup_epochs=0"),
    *("train.batch_size=8", "tune.metric=map", "tune.grace_epochs=1", "tune.finalists=1", "tune.repeats=2"),
    "tune.floor=0",  # of so few images all is chance
]


def study(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Number of a trial -> what was to be done, and what became of it."""
    return {
        path.name: tuple(json.loads((path / name).read_text()) for name in ("trial.json", "outcome.json"))  # type: ignore[misc]
        for path in sorted((folder / "trials").iterdir())
    }


def test_a_study_from_a_space_to_an_answer(dashboard: str, shards: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        yaml.safe_dump(
            {
                "loss.name": ["bce", "asl"],
                "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
                "model.weights": {"choices": ["/nowhere/a.pth", "/nowhere/b.pth"], "when": {"loss.name": "asl"}},
            }
        )
    )
    words = [f"data.shards={shards}", *SMALL, f"tune.space={tmp_path}/space.yaml", "tune.trials=7"]
    run = [f"run.storage={tmp_path}", "run.name=study"]
    assert main(["tune", *words, *run]) == 0
    folder = tmp_path / "study"
    trials = study(folder)
    searched = {name: pair for name, pair in trials.items() if pair[0]["final_of"] is None}
    assert list(searched) == [f"{number:04d}" for number in range(7)]
    assert searched["0000"][0]["overrides"] == {}
    assert searched["0000"][1]["status"] == "done"
    for noted, outcome in searched.values():
        if noted["overrides"].get("loss.name") == "asl":
            assert outcome["status"] == "failed"
            assert ".pth" in outcome["reason"]
        else:
            assert outcome["status"] in ("done", "stopped")
    assert any(outcome["status"] == "failed" for _, outcome in searched.values())
    finals = [pair for pair in trials.values() if pair[0]["final_of"] is not None]
    assert sorted((noted["final_of"] == 0, noted["seed"]) for noted, _ in finals) == [
        (False, 1), (False, 2), (True, 1), (True, 2),
    ]  # fmt: skip
    assert all(outcome["test"]["num_images"] == 15 for _, outcome in finals)
    assert not list((folder / "trials").glob("*/checkpoints/*"))  # of what is over: nothing goes on from them
    table = pq.read_table(folder / "study.parquet")
    assert table.num_rows == len(trials) == 11
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_failed"] == sum(outcome["status"] == "failed" for _, outcome in searched.values())
    page = (folder / "study.html").read_text()
    assert summary["words"][0][:40] in page
    assert "/nowhere/" in page

    # the same command has nothing left to do; a longer study goes on
    before = {path: path.stat().st_mtime_ns for path in (folder / "trials").rglob("*.json")}
    assert main(["tune", *words, *run]) == 2
    assert main(["tune", *words, *run, "run.resume=true"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "trials").rglob("*.json")} == before

    assert train_losses(trained_again(folder, tmp_path)) == train_losses(folder / "trials" / winner_of(folder))


def trained_again(folder: Path, storage: Path) -> Path:
    """The winner of a study as an ordinary run, with as many threads as a trial had."""
    words = ["train", "--config", f"{folder}/best.yaml", f"run.storage={storage}", "run.name=again"]
    one_cpu = partial(os.sched_setaffinity, 0, {min(os.sched_getaffinity(0))})
    command = [sys.executable, "-m", "hpa_ray.cli", *words, "train.num_workers=0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, preexec_fn=one_cpu)
    return storage / "again"


def winner_of(folder: Path) -> str:
    return f"{json.loads((folder / 'summary.json').read_text())['winner']:04d}"


def train_losses(run: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_population_trains_what_its_winner_trains_alone(dashboard: str, shards: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}\nloss.name: [bce, asl]\n")
    words = [f"data.shards={shards}", *SMALL, f"tune.space={tmp_path}/space.yaml", "tune.scheduler=pbt"]
    # four members of three epochs; without finals, whose winner may be the one with nothing changed
    words += ["tune.trials=12", "tune.finalists=0", f"run.storage={tmp_path}", "run.name=population"]
    assert main(["tune", *words]) == 0
    folder = tmp_path / "population"
    trials = study(folder)
    assert len(trials) == 12
    assert all(outcome["status"] == "done" for _, outcome in trials.values())
    assert [noted["begins"] for noted, _ in trials.values()] == [0] * 4 + [1] * 4 + [2] * 4
    changed = [noted for noted, _ in trials.values() if "train.stages" in noted["overrides"]]
    assert changed
    last = max(changed, key=lambda noted: len(noted["overrides"]["train.stages"]))
    name = next(name for name, (noted, _) in reversed(trials.items()) if noted["overrides"] == last["overrides"])
    best = yaml.safe_load((folder / "best.yaml").read_text())
    best["train"]["stages"] = []
    for key, value in last["overrides"].items():
        section, word = key.split(".")
        best[section][word] = value
    (folder / "best.yaml").write_text(yaml.safe_dump(best))
    losses = train_losses(folder / "trials" / name)
    assert train_losses(trained_again(folder, tmp_path))[: len(losses)] == losses


def test_a_study_that_fits_nowhere_is_refused_at_once(
    dashboard: str, shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.shards={shards}", *SMALL, "tune.space=lr", f"run.storage={tmp_path}", "run.name=large"]
    for more, need in (
        ("tune.cpus=64", "a trial needs 64 CPU, which no node has"),
        ("train.num_workers=64", "train.num_workers = 64"),
        ("tune.gpus=1", "a trial needs 1 CPU and 1 GPU, which no node has"),
    ):
        began = time.monotonic()
        assert main(["tune", *words, more]) == 2
        assert need in capsys.readouterr().err
        assert time.monotonic() - began < 20
    assert not (tmp_path / "large" / "trials").exists()


def test_a_study_whose_driver_is_killed_goes_on(dashboard: str, shards: str, tmp_path: Path) -> None:
    words = [f"data.shards={shards}", *SMALL, "tune.space=lr", "tune.trials=4", "tune.finalists=0"]
    command = [sys.executable, "-m", "hpa_ray.cli", "tune", *words, f"run.storage={tmp_path}", "run.name=killed"]
    folder = tmp_path / "killed"
    process = subprocess.Popen([*command, "run.resume=true"], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while not (folder / "trials" / "0001" / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.read_bytes() for path in (folder / "trials").glob("*/outcome.json")}
    begun = {path: path.read_bytes() for path in (folder / "trials").glob("*/trial.json")}
    assert main([*command[3:], "run.resume=true"]) == 0
    trials = study(folder)
    assert len(trials) == 4
    assert all(outcome["status"] in ("done", "stopped") for _, outcome in trials.values())
    for path, content in (done | begun).items():
        assert path.read_bytes() == content
    for name, (_, outcome) in trials.items():
        lines = [json.loads(line) for line in (folder / "trials" / name / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
        assert len(lines) == 3 or outcome["status"] == "stopped"
