"""Faults put into real trainings at random moments: what survives, what is lost, what is seen twice, what it costs.

    uv run benchmarks/faults.py FOLDER                       # every kind, five times each
    uv run benchmarks/faults.py FOLDER --only driver worker --times 2

FOLDER is for scratch. Each kind is one training, `hpa-ray train` as a user starts it, that meets the fault again and
again, each time at a random moment after it has made progress; where the fault ends it, the same command is started
again with run.resume=true. It is compared with the same training undisturbed: the weights bit by bit, and the samples
of every epoch. The trainings with Ray run on three real nodes on this machine. Ends with exit code 1 if any is not as
it should be.

kinds: driver (kill -9, without Ray), upload (the same while a checkpoint is written), worker (kill -9 of a Ray Train
worker), task (of a process that reads data; at 128 px, as smaller images are all read before the first step), node
(all of a node's processes, and a new one joins), ray-driver, head (the whole cluster, and another starts), resize (a
node leaves and a run of 1..2 workers shrinks; one joins and it grows; no bit equality is promised there). Two are told
before, and nothing else asks for a checkpoint within their epochs: drain (Ray's notice that a node goes, which it does
30 s later, and a new one joins) and sigterm (to the driver of a run on Ray).
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ray_nodes import Nodes, command_of
from safetensors.numpy import load_file

NUM_IMAGES, NUM_VAL = 300, 60
LOCAL, TOLD = ("driver", "upload"), ("drain", "sigterm")
ON_RAY = ("worker", "task", "node", "ray-driver", "head", "resize", *TOLD)
SLOWEST_S = 600.0
NOTICE_S = 30.0  # as clouds give
CHECKPOINT = re.compile(r"epoch-(\d+)(?:-(\d+))?\.pt")


class Outcome(NamedTuple):
    kind: str
    faults: int
    starts: int
    finished: bool
    samples_lost: int
    samples_repeated: int
    same_weights: bool | None
    """None: not promised."""
    seconds: float
    undisturbed_s: float

    @property
    def is_good(self) -> bool:
        whole = not (self.samples_lost or self.samples_repeated)
        return self.finished and whole and self.same_weights is not False and self.faults > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[*LOCAL, *ON_RAY], choices=[*LOCAL, *ON_RAY])
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # of clusters that end with this program
    study = Study(options.folder, options.epochs, options.times, random.Random(options.seed))
    study.draw()
    outcomes = []
    for kind in options.only:
        print(f"{kind} ...", file=sys.stderr, flush=True)
        outcomes.append(study.run(kind))
        print(line_of(outcomes[-1]), file=sys.stderr, flush=True)
    print(table(outcomes))
    (options.folder / "faults.md").write_text(table(outcomes) + "\n")
    return int(not all(outcome.is_good for outcome in outcomes))


class Study:
    def __init__(self, folder: Path, epochs: int, times: int, rng: random.Random) -> None:
        self.folder, self.epochs, self.times, self.rng = folder, epochs, times, rng

    def draw(self) -> None:
        atlas = self.folder / "atlas"
        if not (atlas / "train.csv").exists():
            size = ("synth.image_size=128", f"synth.num_images={NUM_IMAGES}")
            subprocess.run([*command("synth"), f"synth.output={atlas}", *size], check=True, stdout=subprocess.DEVNULL)

    def words(self, name: str, *more: str) -> list[str]:
        atlas = self.folder / "atlas"
        return [
            *command("train"),
            *(f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32"),
            *(f"split.parts={NUM_IMAGES - NUM_VAL}/{NUM_VAL}", "model.name=resnet18", "augment.preset=light"),
            *("train.batch_size=8", f"train.epochs={self.epochs}", "train.checkpoint_every=2 s"),
            *("train.max_failures=100", "run.exact=true", f"run.storage={self.folder}/runs", f"run.name={name}"),
            *("run.resume=true", *more),
        ]

    def run(self, kind: str) -> Outcome:
        if kind in LOCAL:
            straight = self.straight("train.num_workers=0")
            return self.disturb(kind, straight, None, "train.num_workers=0")
        with Nodes() as nodes:
            if kind == "task":
                straight = self.straight("train.num_workers=2", nodes, *LARGER)
                return self.disturb(kind, straight, nodes, "train.num_workers=2", *LARGER)
            if kind == "resize":
                straight = self.straight("train.num_workers=0")
                return self.disturb(kind, straight, nodes, "train.num_workers=1..2", *RESIZE)
            straight = self.straight("train.num_workers=2", nodes)
            if kind in TOLD:
                return self.disturb(kind, straight, nodes, "train.num_workers=2", "train.checkpoint_every=10 min")
            return self.disturb(kind, straight, nodes, "train.num_workers=2")

    def straight(self, workers: str, nodes: Nodes | None = None, *more: str) -> tuple[Path, float]:
        """The undisturbed run's folder and seconds; made once."""
        name = f"straight-{self.epochs}" + "-ray" * bool(nodes) + "-larger" * bool(more)
        note = self.folder / f"{name}.json"
        if not note.exists():
            shutil.rmtree(self.folder / "runs" / name, ignore_errors=True)
            began = time.monotonic()
            process = start(self.words(name, workers, *more), self.folder / f"{name}.log", nodes)
            if process.wait():
                raise SystemExit(f"the undisturbed run failed: {self.folder}/{name}.log")
            note.write_text(json.dumps(time.monotonic() - began))
        return self.folder / "runs" / name, float(json.loads(note.read_text()))

    def disturb(self, kind: str, straight: tuple[Path, float], nodes: Nodes | None, *workers: str) -> Outcome:
        run = self.folder / "runs" / kind
        shutil.rmtree(run, ignore_errors=True)
        words = self.words(kind, *workers)
        if kind == "resize":
            words.remove("run.exact=true")
        faults, starts, began = 0, 1, time.monotonic()
        process = start(words, self.folder / f"{kind}.log", nodes)
        before: tuple[int, int] = (0, 0)
        while process.poll() is None or process.returncode:
            if process.poll() is not None:
                starts += 1
                process = start(words, self.folder / f"{kind}.log", nodes)
            if time.monotonic() - began > SLOWEST_S * (1 + starts):
                break
            if faults < self.times and wait_for_progress(process, run, before):
                time.sleep(self.rng.uniform(0.0, 4.0))
                before = progress(run)
                if process.poll() is None and inject(kind, process, run, nodes):
                    faults += 1
                    print(f"{kind}: fault {faults} after epoch {before[0]} + {before[1]} images", file=sys.stderr)
                before = progress(run)  # what is told before a fault makes some
            else:
                time.sleep(0.2)
        seconds = time.monotonic() - began
        if process.poll() is None:
            process.kill()
        finished = process.returncode == 0 and json.loads((run / "summary.json").read_text())["status"] == "done"
        lost, repeated = coverage(run, self.epochs)
        same = None if kind == "resize" else same_weights(run, straight[0])
        return Outcome(kind, faults, starts, finished, lost, repeated, same, seconds, straight[1])


RESIZE = ("train.resources=training=1",)
LARGER = ("data.image_size=128", "model.name=shufflenet_v2_x0_5")


def command(verb: str) -> list[str]:
    return [sys.executable, "-m", "hpa_ray.cli", verb]


def start(words: list[str], log: Path, nodes: Nodes | None) -> "subprocess.Popen[bytes]":
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    if nodes:
        env["RAY_ADDRESS"] = nodes.address
    with log.open("ab") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=env)


def progress(run: Path) -> tuple[int, int]:
    """Epochs and images of the newest checkpoint."""
    with contextlib.suppress(FileNotFoundError):
        names = map(CHECKPOINT.fullmatch, os.listdir(run / "checkpoints"))
        return max(((int(m[1]), int(m[2] or 0)) for m in names if m), default=(0, 0))
    return 0, 0


def wait_for_progress(process: "subprocess.Popen[bytes]", run: Path, before: tuple[int, int]) -> bool:
    deadline = time.monotonic() + SLOWEST_S
    while progress(run) <= before:
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def inject(kind: str, process: "subprocess.Popen[bytes]", run: Path, nodes: Nodes | None) -> bool:
    """Put the fault in; False if there was no occasion."""
    if kind in ("driver", "ray-driver"):
        process.kill()
        process.wait()
        return True
    if kind == "upload":
        if not wait_until(lambda: is_writing(run), 30):
            return False
        process.kill()
        process.wait()
        return True
    assert nodes is not None
    if kind == "sigterm":
        process.terminate()
        process.wait()
        assert process.returncode == 128 + signal.SIGTERM, f"it ended with {process.returncode}"
        assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
        return progress(run)[1] > 0
    if kind == "drain":
        nodes.choose()
        nodes.tell_to_go(NOTICE_S)
        told = time.monotonic()
        saved = wait_until(lambda: progress(run)[1], NOTICE_S)
        print(f"drain: {time.monotonic() - told:.1f} s after the notice: {progress(run)}", file=sys.stderr)
        time.sleep(max(0.0, told + NOTICE_S - time.monotonic()))
        nodes.replace(join=True)
        return bool(saved)
    if kind in ("worker", "task"):
        title = "TrainWorker" if kind == "worker" else "ReadBatches"
        until = time.monotonic() + 120
        while not (killed := kill_one(nodes.pids(), title)) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        return killed
    if kind in ("node", "resize"):
        if kind == "resize" and len(nodes.others) < 2:
            nodes.add()
        else:
            nodes.choose()
            nodes.replace(join=kind == "node")
        return True
    nodes.restart()
    process.wait()  # a driver ends when its cluster does
    return True


def is_writing(run: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return any(name.endswith(".tmp") for name in os.listdir(run / "checkpoints"))
    return False


def wait_until(holds: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.002)
    return found


def kill_one(pids: list[int], title: str) -> bool:
    for pid in pids:
        with contextlib.suppress(OSError):
            if title.encode() in command_of(pid):
                os.kill(pid, signal.SIGKILL)
                return True
    return False


def coverage(run: Path, epochs: int) -> tuple[int, int]:
    """Samples lost and seen twice, over all epochs, by what every epoch noted of its samples."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = NUM_IMAGES - NUM_VAL
    lost = expected * (epochs - len(lines)) + sum(expected - line["num_distinct"] for line in lines)
    return int(lost), int(sum(line["num_samples"] - line["num_distinct"] for line in lines))


def same_weights(run: Path, straight: Path) -> bool:
    ours, theirs = (load_file(folder / "model_last.safetensors") for folder in (run, straight))
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def line_of(outcome: Outcome) -> str:
    same = {None: "not promised", True: "yes", False: "NO"}[outcome.same_weights]
    extra = outcome.seconds - outcome.undisturbed_s
    return (
        f"| {outcome.kind} | {outcome.faults} | {outcome.starts} | {'yes' if outcome.finished else 'NO'} "
        f"| {outcome.samples_lost} | {outcome.samples_repeated} | {same} | {outcome.seconds:.0f} "
        f"| {extra / max(outcome.faults, 1):+.0f} |"
    )


def table(outcomes: list[Outcome]) -> str:
    titles = ("fault", "times", "starts", "finished", "samples lost", "samples repeated", "same weights", "seconds")
    head = f"| {' | '.join(titles)} | more than undisturbed, per fault |"
    return "\n".join([head, f"|{' --- |' * (len(titles) + 1)}", *map(line_of, outcomes)])


if __name__ == "__main__":
    sys.exit(main())
