"""What the search is worth: against random search with as much computing, killed again and again, and its overhead.

    uv run benchmarks/search.py kills  FOLDER               # one study killed five times, and the same undisturbed
    uv run benchmarks/search.py random FOLDER --repeats 3   # TPE and ASHA against random trials of full length

FOLDER is for scratch; data: synthetic images, half of them to train on, at --size px. Studies run `hpa-ray tune` as a
user starts it, for the mean average precision, on a Ray of their own; finished ones are kept, so that the same command
goes on. Overhead is in both: the share of the time in which trials computed, the start of Ray not counted.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

METRIC = "map"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("kills", "random"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--times", type=int, default=5, help="kills")
    parser.add_argument("--repeats", type=int, default=3, help="seeds of both searches")
    parser.add_argument("--words", nargs="*", default=[], help="further key=value words for every study")
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # of clusters that end with this program
    os.environ["RAY_ADDRESS"] = "local"
    prepare(options)
    return {"kills": kills, "random": against_random}[options.study](options)


def kills(options: argparse.Namespace) -> int:
    """One trial at a time: side by side, the order in which they end decides what is asked next."""
    words = ["tune.concurrency=1", "tune.finalists=0"]
    run(options, "straight", *words)
    folder, rng, killed, starts = options.folder / "studies" / "killed", random.Random(0), 0, 0
    began = time.monotonic()
    while True:
        starts += 1
        process = start(options, "killed", *words)
        if killed < options.times:
            before = num_epochs(folder)
            while num_epochs(folder) <= before and process.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 6))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
                print(f"killed {killed} times, after {num_epochs(folder)} epochs of all trials", file=sys.stderr)
        if process.wait() == 0:
            break
    ours, theirs = (trials_of(options.folder / "studies" / name) for name in ("killed", "straight"))
    repeated = sum(len(epochs) - len(set(epochs)) for epochs in epochs_of(folder).values())
    same = [one["overrides"] for one in ours] == [one["overrides"] for one in theirs]
    best = [summary_of(options.folder / "studies" / name)["winner"] for name in ("killed", "straight")]
    straight = summary_of(options.folder / "studies" / "straight")
    print("| killed | starts | trials | the same trials | epochs trained twice | best trial | undisturbed | seconds |")
    print("| --- |" + " --- |" * 7)
    print(
        f"| {killed} | {starts} | {len(ours)} | {'yes' if same else 'NO'} | {repeated} | {best[0]} | {best[1]} "
        f"| {time.monotonic() - began:.0f}, undisturbed {straight['wall_s']:.0f} |"
    )
    print(
        f"\nundisturbed: {straight['trials_per_hour']:.0f} trials an hour of {straight['device_hours'] * 3600:.0f} CPU "
        f"seconds in all; {straight['busy_pct']:.0f} % of the time is training"
    )
    return int(not same or bool(repeated) or best[0] != best[1])


def against_random(options: argparse.Namespace) -> int:
    rows = []
    for seed in range(options.repeats):
        words = [f"run.seed={seed}", "tune.finalists=0"]
        found = run(options, f"tpe-{seed}", *words)
        budget = f"tune.device_hours={found['device_hours']}"
        plain = ("tune.sampler=random", "tune.scheduler=none", "tune.trials=1000", budget)
        other = run(options, f"random-{seed}", *words, *plain)
        rows.append((best_over_time(options, f"tpe-{seed}"), best_over_time(options, f"random-{seed}"), found, other))
    print(
        "| seed | CPU minutes | best by TPE and ASHA | trials | best at random | trials | minutes to the lower best |"
    )
    print("| --- |" + " --- |" * 6)
    for seed, (ours, theirs, found, other) in enumerate(rows):
        goal = min(ours[-1][1], theirs[-1][1])
        reached = [next(seconds for seconds, value in path if value >= goal) / 60 for path in (ours, theirs)]
        print(
            f"| {seed} | {60 * found['device_hours']:.1f} | {ours[-1][1]:.3f} | {found['num_trials']} "
            f"| {theirs[-1][1]:.3f} | {other['num_trials']} | {reached[0]:.1f} against {reached[1]:.1f} |"
        )
    means = [statistics.mean(path[-1][1] for path in paths) for paths in list(zip(*rows, strict=True))[:2]]
    busy = [statistics.mean(row[k]["busy_pct"] for row in rows) for k in (2, 3)]
    print(
        f"\nmean of the best: {means[0]:.3f} and {means[1]:.3f}; "
        f"{busy[0]:.0f} % and {busy[1]:.0f} % of the time is training"
    )
    return 0


def best_over_time(options: argparse.Namespace, name: str) -> list[tuple[float, float]]:
    """Seconds of computing, summed over the trials in their order, and the best value so far."""
    folder = options.folder / "studies" / name
    seconds, best, path = 0.0, 0.0, []
    for number in range(len(trials_of(folder))):
        begun = seconds
        for line in lines_of(folder / "trials" / f"{number:04d}"):
            seconds = begun + line["wall_s"]
            best = max(best, line[METRIC] or 0.0)
            path.append((seconds, best))
    return path


def prepare(options: argparse.Namespace) -> None:
    atlas, shards = options.folder / "atlas", options.folder / f"shards-{options.size}"
    if not (atlas / "train.csv").exists():
        call("synth", f"synth.output={atlas}", f"synth.num_images={options.images}", "synth.image_size=128")
    if not (shards / "index.json").exists():
        images = (f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", f"data.image_size={options.size}")
        call("prepare", *images, f"prepare.output={shards}", "prepare.num_workers=0")


def run(options: argparse.Namespace, name: str, *words: str) -> dict[str, Any]:
    """A whole study, if it is not there already; its summary."""
    folder = options.folder / "studies" / name
    if not (folder / "summary.json").exists():
        print(f"{name} ...", file=sys.stderr, flush=True)
        if start(options, name, *words).wait():
            raise SystemExit(f"{name} failed: {options.folder}/{name}.log")
    return summary_of(folder)


def start(options: argparse.Namespace, name: str, *words: str) -> "subprocess.Popen[bytes]":
    given = [
        *(f"data.shards={options.folder}/shards-{options.size}", "split.parts=0.5/0.25/0.25"),
        *("model.name=shufflenet_v2_x0_5", "train.batch_size=32", "optim.lr=3e-3", f"train.epochs={options.epochs}"),
        *(f"tune.trials={options.trials}", f"tune.metric={METRIC}", "tune.floor=0"),
        *(f"run.storage={options.folder}/studies", f"run.name={name}"),
        *("run.resume=true", *words, *options.words),
    ]
    with (options.folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "hpa_ray.cli", "tune", *given], stdout=log, stderr=log)


def call(verb: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "hpa_ray.cli", verb, *words], check=True, stdout=subprocess.DEVNULL)


def summary_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def trials_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*/trial.json"))]


def lines_of(run_folder: Path) -> list[dict[str, Any]]:
    path = run_folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def epochs_of(folder: Path) -> dict[str, list[int]]:
    return {path.name: [line["epoch"] for line in lines_of(path)] for path in sorted((folder / "trials").glob("*"))}


def num_epochs(folder: Path) -> int:
    return sum(map(len, epochs_of(folder).values())) if folder.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
