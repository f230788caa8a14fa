"""A long training while its storage fails and its workers are killed: is the memory of every process flat?

    uv run benchmarks/soak.py FOLDER                 # half an hour
    uv run benchmarks/soak.py FOLDER --minutes 60 --kill-every 120

FOLDER is for scratch and for soak.png, soak.csv, soak.md. The training reads its PNGs in every epoch from an S3
service on this machine and keeps its run folder there; it gets there by a proxy that breaks one request in twenty
(tests/fault_proxy.py). It has two Ray Train workers on three real nodes; every few minutes one of them is killed.
At the end the driver is killed, started again by the same command, and killed after one more epoch. Ends with exit
code 1 if a sample was lost or seen twice, if a driver ended by itself, or if the memory of our processes or the object
stores grew by more than 10 % (and 16 MiB) from the second quarter of the time to the last one; what Ray's
own raylets and GCS keep of finished tasks is shown beside it.

Memory is anonymous memory (`Anonymous` of /proc/PID/smaps_rollup), summed over the processes of a kind, and the bytes
in use in the object stores of all nodes.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from object_store import ACCESS_KEY, REGION, SECRET_KEY, Faults, ObjectStore, object_store
from ray_nodes import Nodes

from hpa_ray import storage
from hpa_ray.figures.style import PALETTE, figure_png, new_figure, styled

BUCKET = "hpa"
NUM_IMAGES, NUM_VAL = 240, 40
FAULTS = Faults(slow_down=0.01, server_error=0.01, reset=0.01, cut=0.01, reset_body=0.005, corrupt=0.005, seed=1)
EVERY_S = 5.0
FASTEST_EPOCH_S = 0.5  # so many are planned that they can not be over before the time is
GROWTH, SLACK_MIB = 1.10, 16.0
MIB = 2**20
ANONYMOUS = re.compile(r"^Anonymous:\s+(\d+) kB", re.MULTILINE)
KINDS = {
    "driver": "hpa_ray.cli train",
    "controller": "ray::TrainController",
    "train workers": "ray::RayTrainWorker",
    "raylets": "raylet/raylet",
    "gcs": "gcs/gcs_server",
}
RAYS_OWN = ("raylets", "gcs")
OTHERS, STORE = "Ray's other workers", "object stores"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kill-every", type=float, default=180.0, help="seconds between two killed workers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # of a cluster that ends with this program
    options.folder.mkdir(parents=True, exist_ok=True)
    draw(options.folder / "atlas")
    with object_store() as store, Nodes() as nodes:
        fill(store, options.folder / "atlas")
        store.faults = FAULTS
        soak = Soak(options.folder, store, nodes, random.Random(options.seed))
        soak.run(60 * options.minutes, options.kill_every)
        lost, repeated = soak.finish()
        num_faults = sum(store.counts.faults.values())
    text = table(soak.memory)
    summary = (
        f"{options.minutes:g} minutes, {soak.epochs} epochs, {soak.kills} workers killed, {num_faults:,} requests "
        f"broken, {soak.retries:,} told as repeated; {lost} samples lost, {repeated} seen twice"
    )
    (options.folder / "soak.md").write_text(f"{text}\n\n{summary}\n")
    save_points(soak.memory, options.folder / "soak.csv")
    (options.folder / "soak.png").write_bytes(figure_png(figure(soak.memory, soak.killed_at)))
    print(f"{text}\n\n{summary}")
    return int(bool(soak.failed or lost or repeated or not soak.kills or has_grown(soak.memory)))


class Soak:
    def __init__(self, folder: Path, store: ObjectStore, nodes: Nodes, rng: random.Random) -> None:
        self.folder, self.store, self.nodes, self.rng = folder, store, nodes, rng
        self.began = time.monotonic()
        self.memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
        """Kind of process -> seconds and MiB."""
        self.killed_at: list[float] = []
        self.failed: list[str] = []
        self.epochs = self.retries = self.planned = 0

    @property
    def kills(self) -> int:
        return len(self.killed_at)

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def run(self, seconds: float, kill_every: float) -> None:
        """Train for so long, kill a worker every so often, and then ask for the end."""
        self.planned = int(seconds / FASTEST_EPOCH_S)
        process = self.start()
        next_kill = kill_every
        while self.now < seconds and process.poll() is None:
            time.sleep(EVERY_S)
            self.sample(process.pid)
            if self.now > next_kill:
                workers = [pid for pid in self.nodes.pids() if KINDS["train workers"] in command_of(pid)]
                if workers:
                    os.kill(self.rng.choice(workers), signal.SIGKILL)
                    self.killed_at.append(self.now)
                    next_kill = self.now + self.rng.uniform(0.7, 1.3) * kill_every
            print(self.state(), end="\r", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        self.stop(process)

    def stop(self, process: "subprocess.Popen[bytes]") -> None:
        if process.poll() is not None:
            self.failed.append(f"ended by itself with exit code {process.returncode}")
        process.kill()
        process.wait()

    def finish(self) -> tuple[int, int]:
        """One more epoch by the same command; samples lost and seen twice in all epochs."""
        storage.configure(
            storage.Settings(endpoint=self.store.endpoint, access_key=ACCESS_KEY, secret_key=SECRET_KEY, region=REGION)
        )
        before, process = len(self.lines()), self.start()
        until = time.monotonic() + 600
        while len(self.lines()) <= before and process.poll() is None and time.monotonic() < until:
            time.sleep(1.0)
        self.stop(process)
        self.epochs = len(self.lines())
        if self.epochs <= before:
            self.failed.append("did not go on")
        lines = self.lines()
        expected = NUM_IMAGES - NUM_VAL
        self.retries = sum(line["storage_retries"] for line in lines)
        if self.failed:
            print(f"FAILED: {'; '.join(self.failed)} - {self.folder}/soak.log", file=sys.stderr)
        return sum(expected - line["num_distinct"] for line in lines), sum(
            line["num_samples"] - line["num_distinct"] for line in lines
        )

    def start(self) -> "subprocess.Popen[bytes]":
        words = [
            *(f"data.images=s3://{BUCKET}/train", f"data.labels=s3://{BUCKET}/train.csv", "data.image_size=32"),
            *(f"split.parts={NUM_IMAGES - NUM_VAL}/{NUM_VAL}", "model.name=shufflenet_v2_x0_5", "augment.preset=light"),
            *(
                "train.batch_size=8",
                f"train.epochs={self.planned}",
                "train.checkpoint_every=20 s",
                "train.num_workers=2",
            ),
            *("train.max_failures=1000", f"run.storage=s3://{BUCKET}/runs", "run.name=soak", "run.resume=true"),
            *(f"storage.endpoint={self.store.proxy_endpoint}", f"storage.access_key={ACCESS_KEY}"),
            *(f"storage.secret_key={SECRET_KEY}", f"storage.region={REGION}", "storage.timeout_s=5"),
        ]
        env = {**os.environ, "RAY_ADDRESS": self.nodes.address}
        with (self.folder / "soak.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "hpa_ray.cli", "train", *words], stdout=log, stderr=log, env=env
            )

    def lines(self) -> list[dict[str, Any]]:
        content = storage.read_bytes(f"s3://{BUCKET}/runs/soak/metrics.jsonl").decode()
        return [json.loads(line) for line in content.splitlines()]

    def sample(self, driver: int) -> None:
        used: dict[str, float] = dict.fromkeys([*KINDS, OTHERS], 0.0)
        for pid in {driver, *self.nodes.all_pids()}:
            with contextlib.suppress(OSError):
                command = command_of(pid)
                kind = next((name for name, part in KINDS.items() if part in command), OTHERS)
                found = ANONYMOUS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
                used[kind] += int(found[1]) / 1024 if found else 0.0
        used[STORE] = self.nodes.object_store_bytes() / MIB
        for kind, mib in used.items():
            self.memory[kind].append((self.now, mib))

    def state(self) -> str:
        latest = ", ".join(f"{kind} {points[-1][1]:.0f}" for kind, points in self.memory.items())
        return f"{self.now / 60:.1f} min, {self.kills} killed, MiB: {latest}   "


def draw(atlas: Path) -> None:
    if not (atlas / "train.csv").exists():
        words = (f"synth.output={atlas}", "synth.image_size=128", f"synth.num_images={NUM_IMAGES}")
        subprocess.run([sys.executable, "-m", "hpa_ray.cli", "synth", *words], check=True, stdout=subprocess.DEVNULL)


def fill(store: ObjectStore, atlas: Path) -> None:
    store.create_bucket(BUCKET)
    store.put(BUCKET, "train.csv", (atlas / "train.csv").read_bytes())
    for path in (atlas / "train").iterdir():
        store.put(BUCKET, f"train/{path.name}", path.read_bytes())


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def quarters(points: list[tuple[float, float]]) -> list[float]:
    """Median MiB of each quarter of the time."""
    end = points[-1][0]
    return [median([mib for s, mib in points if q / 4 <= s / end <= (q + 1) / 4] or [0.0]) for q in range(4)]


def growths(memory: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Last quarter over second."""
    medians = {kind: quarters(points) for kind, points in memory.items()}
    return {kind: values[3] / max(values[1], 1.0) for kind, values in medians.items()}


def has_grown(memory: dict[str, list[tuple[float, float]]]) -> bool:
    medians = {kind: quarters(points) for kind, points in memory.items() if kind not in RAYS_OWN}
    return any(values[3] > max(GROWTH * values[1], values[1] + SLACK_MIB) for values in medians.values())


def table(memory: dict[str, list[tuple[float, float]]]) -> str:
    grown = growths(memory)
    lines = ["| MiB, medians | 1st quarter | 2nd | 3rd | 4th | most | 4th / 2nd |", "| --- |" + " --- |" * 6]
    for kind, points in memory.items():
        cells = [f"{mib:.0f}" for mib in (*quarters(points), max(mib for _, mib in points))]
        lines.append(f"| {kind} | {' | '.join(cells)} | {grown[kind]:.2f} |")
    return "\n".join(lines)


@styled
def figure(memory: dict[str, list[tuple[float, float]]], killed_at: list[float]) -> Any:
    drawing = new_figure(9.0, 4.5)
    axes = drawing.subplots()
    for k, (kind, points) in enumerate(memory.items()):
        seconds, mib = zip(*points, strict=True)
        axes.plot([s / 60 for s in seconds], mib, label=kind, linewidth=1.4, color=PALETTE[k % len(PALETTE)])
    for k, at in enumerate(killed_at):
        axes.axvline(
            at / 60, color="0.75", linewidth=0.8, linestyle=":", zorder=0, label=None if k else "a worker is killed"
        )
    axes.set(xlabel="minutes", ylabel="MiB", ylim=(0, None), title="Memory while storage fails and workers are killed")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, fontsize="small")
    return drawing


def save_points(memory: dict[str, list[tuple[float, float]]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "seconds", "mib"])
        writer.writerows((kind, f"{s:.1f}", f"{mib:.2f}") for kind, points in memory.items() for s, mib in points)


if __name__ == "__main__":
    sys.exit(main())
