"""Reading with 1, 2 and 4 data nodes against linear, and what one more train worker costs the driver.

    uv run benchmarks/scaling.py FOLDER

Nodes are Ray nodes on this machine, of one CPU each. Reading: PNGs in a bucket that takes --latency seconds to answer
(tests/fault_proxy.py), so that a reader mostly waits and a few cores carry several of them; a pipeline as train workers
run it, in this process. Twice: until waiting no longer hides what the cores do, linear is what is expected. Workers:
`hpa-ray train` on 1, 2 and 4 training nodes; memory and CPU time are those of the driver process alone. FOLDER is for
scratch and for scaling.md.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from object_store import ACCESS_KEY, REGION, SECRET_KEY, Faults, ObjectStore, object_store

from hpa_ray import cluster
from hpa_ray.cli.main import main as hpa_ray
from hpa_ray.cluster.placement import LABELS, Role
from hpa_ray.config import load_config
from hpa_ray.stream import Data, EpochOrder, Place, Sampling, Schedule, Steps, open_data, ray_feed

NUM_IMAGES, SIDE, BATCH = 64, 64, 8
STORE = {"object_store_memory": 80 * 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--latency", type=float, default=1.0, help="seconds until the store answers a GET")
    parser.add_argument("--seconds", type=float, default=25.0, help="of each measurement of reading")
    options = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    folder = options.folder.resolve()
    atlas = folder / "atlas"
    if not (atlas / "train.csv").exists():
        hpa_ray(["synth", f"synth.num_images={NUM_IMAGES}", f"synth.image_size={SIDE}", f"synth.output={atlas}"])
    lines = reading(atlas, options.nodes, options.latency, options.seconds)
    lines += ["", *workers(folder, atlas, options.nodes)]
    (folder / "scaling.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


# ---- reading


def reading(atlas: Path, counts: list[int], latency: float, seconds: float) -> list[str]:
    head = f"| data nodes, store {latency:g} s away | images/s | of linear | CPU s per image | task, s |"
    lines = [f"{head} tasks of a node at a time |", "| --- " * 6 + "|"]
    first = 0.0
    with object_store() as store:
        fill(store, atlas)
        store.faults = Faults(stall=1.0, stall_s=latency, max_in_a_row=None, methods=("GET",), paths="train/")
        data = open_there(store, atlas)
        for count in counts:
            with nodes(data=count):
                rate, cpu_s, task_s, task_rate = rate_of(data, seconds)
            first = first or rate / count
            at_once = task_s * task_rate / count
            lines.append(
                f"| {count} | {rate:.1f} | {rate / (first * count):.0%} | {cpu_s:.3f} | {task_s:.2f} | {at_once:.2f} |"
            )
            print(lines[-1], flush=True)
    return lines


def fill(store: ObjectStore, atlas: Path) -> None:
    store.create_bucket("hpa")
    for path in (atlas / "train").iterdir():
        store.put("hpa", f"train/{path.name}", path.read_bytes())


def open_there(store: ObjectStore, atlas: Path) -> Data:
    words = [f"storage.endpoint={store.proxy_endpoint}", f"storage.access_key={ACCESS_KEY}"]
    words += [f"storage.secret_key={SECRET_KEY}", f"storage.region={REGION}", "split.parts=0.9/0.1"]
    words += ["data.images=s3://hpa/train", f"data.labels={atlas}/train.csv", "data.image_size=32"]
    config = load_config(words)
    from hpa_ray import storage

    storage.configure(config.storage.settings())
    return open_data(config)


def rate_of(data: Data, seconds: float) -> tuple[float, float, float, float]:
    """Images a second after the first ten tasks, and CPU seconds of all processes of the machine per image; seconds of
    a task that reads, from Ray's own notes, and how many of them end in a second."""
    cluster.start_ray()
    rows = data.parts["train"]
    steps, order = Steps(len(rows), BATCH, 1), EpochOrder(len(rows), 0, chunk_rows=4)
    schedule = Schedule(rows, rows[:0], Sampling(len(rows), 0, None), order, steps, 0, Place(0, steps), 10_000)
    images, began, busy = 0, 0.0, 0.0
    feed = ray_feed(data.source, schedule, prefetch=8, batch_bytes=2**25)  # a batch per task
    for number, batch in enumerate(feed):
        if number == 10:
            images, began, busy = 0, time.monotonic(), busy_s()
        images += len(batch.rows_B)
        if began and time.monotonic() - began > seconds:
            break
    elapsed = time.monotonic() - began
    return images / elapsed, (busy_s() - busy) / images, *tasks_of(elapsed)


def tasks_of(seconds: float) -> tuple[float, float]:
    """Mean seconds of the reading tasks that ended in the last so many seconds, and how many in a second."""
    import ray

    time.sleep(2)  # until the notes of the last tasks have come
    found = [event for event in ray.timeline() if event["cat"] == "task::ReadBatches"]
    last = max(event["ts"] + event["dur"] for event in found)
    taken = [event["dur"] / 1e6 for event in found if event["ts"] + event["dur"] > last - seconds * 1e6]
    return sum(taken) / len(taken), len(taken) / seconds


def busy_s() -> float:
    """CPU time of the whole machine so far, on Linux."""
    user, nice, system = (int(word) for word in Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


# ---- workers


def workers(folder: Path, atlas: Path, counts: list[int]) -> list[str]:
    shards = folder / "shards"
    images = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32"]
    if not (shards / "index.json").exists():
        hpa_ray(["prepare", *images, f"prepare.output={shards}", "prepare.num_workers=0"])
    lines = ["| train workers | driver, peak MiB | driver, CPU s | run, s |", "| --- " * 4 + "|"]
    for count in counts:
        with nodes(training=count, data=1) as address:
            words = [f"data.shards={shards}", "model.name=mlp6", "train.epochs=3", "train.use_gpu=false"]
            words += [f"train.num_workers={count}", "train.batch_size=4", "split.parts=0.8/0.2"]
            words += [f"run.storage={folder}/runs", f"run.name=w{count}-{time.time():.0f}"]
            lines.append(f"| {count} | " + " | ".join(f"{value:.0f}" for value in driver_of(words, address)) + " |")
            print(lines[-1], flush=True)
    return lines


def driver_of(words: list[str], address: str) -> tuple[float, float, float]:
    """Peak MiB, CPU seconds and seconds of `hpa-ray train`, by a process that has no other child."""
    program = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    program += "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    program += "print(code, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime)"
    began = time.monotonic()
    command = [sys.executable, "-c", program, sys.executable, "-m", "hpa_ray.cli", "train", *words]
    env = os.environ | {"RAY_ADDRESS": address}
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    code, peak, cpu_s = out.splitlines()[-1].split()
    if code != "0":
        raise SystemExit(out)
    return float(peak), float(cpu_s), time.monotonic() - began


@contextmanager
def nodes(data: int = 0, training: int = 0) -> Iterator[str]:
    """A head without CPUs, and nodes of one CPU with each role; the address of the cluster."""
    for name, value in cluster.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": False, **STORE}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        counts: dict[Role, int] = {"data": data, "training": training}
        for role, count in counts.items():
            for _ in range(count):
                started.add_node(num_cpus=1, labels=dict([LABELS[role]]), **STORE)
        os.environ["RAY_ADDRESS"] = started.address
        yield started.address
    finally:
        del os.environ["RAY_ADDRESS"]
        ray.shutdown()
        started.shutdown()


if __name__ == "__main__":
    main()
