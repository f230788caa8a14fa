"""Kill `prepare` at random moments and let it go on, again and again; then compare with an undisturbed run.

    uv run benchmarks/prepare_kills.py FOLDER --kills 20

FOLDER is for scratch. Each round starts the command as a user would, in its own process group, and kills that group
(SIGKILL) after a random time; a round that ends by itself begins anew in an empty folder. Prints the hashes that differ
and the files that are left over: there must be none.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", default="0", help="prepare.num_workers; 0: without Ray")
    parser.add_argument("--after-s", type=float, nargs=2, default=(1.0, 5.0), help="a kill comes between these times")
    arguments = parser.parse_args()
    root: Path = arguments.folder
    rng = random.Random(arguments.seed)
    data = root / f"atlas-{arguments.images}"
    if not (data / "train.csv").exists():
        size = ["synth.image_size=128", f"synth.num_images={arguments.images}"]
        subprocess.run([*command("synth"), f"synth.output={data}", *size], check=True)

    def words(output: Path) -> list[str]:
        return [
            *command("prepare"),
            *(f"data.images={data}/train", f"data.labels={data}/train.csv", f"prepare.output={output}"),
            *("prepare.sizes=64,96", "prepare.shard_bytes=1048576", f"prepare.num_workers={arguments.num_workers}"),
        ]

    straight, killed = root / "straight", root / "killed"
    for folder in (straight, killed):
        shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    subprocess.run(words(straight), check=True, stdout=subprocess.DEVNULL)
    whole_s = time.perf_counter() - began
    expected = content(straight)
    print(f"undisturbed: {len(expected)} files in {whole_s:.1f} s", flush=True)

    kills, completed, wrong = 0, 0, 0
    while kills < arguments.kills or not (killed / "96px" / "index.json").exists():
        done = run_and_kill(words(killed), rng.uniform(*arguments.after_s) if kills < arguments.kills else None)
        if not done:
            kills += 1
            print(f"kill {kills}: {len(list(killed.rglob('shard-*.arrow')))} shards so far", flush=True)
            continue
        completed += 1
        wrong += compare(killed, expected)
        if kills < arguments.kills:
            shutil.rmtree(killed)
    wrong += compare(killed, expected)
    print(json.dumps({"kills": kills, "completed": completed, "wrong": wrong, "undisturbed_s": round(whole_s, 1)}))
    return int(wrong > 0)


def command(verb: str) -> list[str]:
    return [sys.executable, "-m", "hpa_ray.cli", verb]


def run_and_kill(words: list[str], after_s: float | None) -> bool:
    """True if the command came to its end before it was to be killed."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    if process.returncode:
        raise SystemExit(f"prepare failed: {errors.decode()}")
    return True


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def compare(folder: Path, expected: dict[str, str]) -> int:
    found = content(folder)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            print(f"DIFFERS: {name}: {found.get(name)} instead of {expected.get(name)}", flush=True)
    folders = [path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]
    return sum(found.get(name) != expected.get(name) for name in found.keys() | expected.keys()) + len(folders)


if __name__ == "__main__":
    sys.exit(main())
