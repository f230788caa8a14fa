"""Three hosts and a store, each with its own network and files: prepare, train, tune, predict; then one is cut off.

    uv run benchmarks/hosts.py FOLDER

The hosts are Linux network namespaces of this machine, joined by a bridge: 10.77.0.1 is the head and reads data (label
`data`), 10.77.0.2 and 10.77.0.3 train (`training`, one CPU each), 10.77.0.9 serves S3; besides they share only the
installed programs. All work is given by `ray job submit` with the keys of the store in its environment. At last the
cable of a host with a train worker is pulled in the middle of a run, which must come to its end on the other.

FOLDER is for scratch and for hosts.md, the table. Exit code 1 if anything is not as it should be, 3 where namespaces
are not allowed. Whatever is started ends with this program: it has a process namespace of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from object_store import ObjectStore

ROOT = Path(__file__).parents[1]
OWN = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
NET = "10.77.0"
HEAD, STORE, US = 1, 9, 254
HOSTS = {1: "ray-subcluster=data", 2: "hpa-ray/role=training", 3: "hpa-ray/role=training"}
DASHBOARD = f"http://{NET}.{HEAD}:8265"
NUM_IMAGES = 60
IMAGES = ("data.images=s3://hpa/train", "data.labels=s3://hpa/train.csv", "data.image_size=32")
TRAINING = (
    *("data.shards=s3://hpa/shards", "split.parts=0.6/0.2/0.2", "model.name=resnet18", "train.batch_size=4"),
    *("train.use_gpu=false", "run.storage=s3://hpa/runs"),
)
SLOWEST_S = 420.0
BIN = Path(sys.executable).parent


class Row(NamedTuple):
    what: str
    seconds: float
    where: str
    found: str
    is_good: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if not options.inside:
        if why := refusal():
            print(f"hosts: no namespaces here: {why}", file=sys.stderr)
            sys.exit(3)
        command = [*as_root(), sys.executable, __file__, str(folder), "--inside"]
        sys.exit(subprocess.run(command, check=False).returncode)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("RAY_ADDRESS", None)  # Ray would ask that cluster, whatever address it is given
    rows: list[Row] = []
    with network(), store() as bucket, cluster(folder):
        for row in exercise(folder, bucket):
            print(f"{row.what:<44} {row.seconds:6.1f} s   {row.found}", flush=True)
            rows.append(row)
    write_table(folder, rows)
    sys.exit(0 if len(rows) == 5 and all(row.is_good for row in rows) else 1)


def as_root() -> list[str]:
    return OWN if os.getuid() == 0 else [OWN[0], "--user", "--map-root-user", *OWN[1:]]


def refusal() -> str:
    """Why this machine does not let us make namespaces and a bridge; empty if it does."""
    try:
        probe = "mount -t tmpfs none /run && ip netns add probe && ip link add probe type bridge"
        done = subprocess.run([*as_root(), "sh", "-c", probe], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@contextmanager
def network() -> Iterator[None]:
    """A bridge that we are at, too, and hosts with a cable to it. They end with our own namespace."""
    run("mount -t tmpfs none /run")  # where `ip netns` keeps names; the machine's own are not touched
    run("ip link set lo up")
    run("ip link add bridge type bridge")
    run(f"ip address add {NET}.{US}/24 dev bridge")
    run("ip link set bridge up")
    for number in (*HOSTS, STORE):
        run(f"ip netns add host{number}")
        run(f"ip link add cable{number} type veth peer name eth0 netns host{number}")
        run(f"ip link set cable{number} master bridge up")
        for command in ("link set lo up", f"address add {NET}.{number}/24 dev eth0", "link set eth0 up"):
            run(f"ip -n host{number} {command}")
    yield


@contextmanager
def store() -> Iterator[ObjectStore]:
    command = [sys.executable, "-m", "moto.server", "-H", f"{NET}.{STORE}", "-p", "9000"]
    server = subprocess.Popen(on_host(STORE, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    bucket = ObjectStore(f"http://{NET}.{STORE}:9000", None)
    try:
        until(lambda: answers(bucket), 60, "the store does not start")
        yield bucket
    finally:
        server.kill()


def answers(bucket: ObjectStore) -> bool:
    try:
        bucket.create_bucket("hpa")
    except OSError:
        return False
    return True


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Ray on each host, with files that the others do not see."""
    started = []
    for number, label in HOSTS.items():
        files = folder / f"host{number}"
        files.mkdir(exist_ok=True)
        is_head = number == HEAD
        address = f"{NET}.{HEAD}:6379"
        words = [str(BIN / "ray"), "start", "--block", f"--node-ip-address={NET}.{number}"]
        words += [f"--labels={label}", f"--num-cpus={2 if is_head else 1}", "--num-gpus=0"]
        words += [f"--object-store-memory={200 * 2**20}", "--disable-usage-stats"]
        words += (
            ["--head", "--port=6379", f"--dashboard-host={NET}.{HEAD}", "--temp-dir=/tmp/hosts"]
            if is_head
            else [f"--address={address}"]
        )
        # a /tmp/hosts of its own, whatever Ray keeps there
        command = f'mkdir -p /tmp/hosts && mount --bind {files} /tmp/hosts && exec "$@"'
        own_files = ["unshare", "--mount", "sh", "-c", command, "sh", *words]
        log = (folder / f"host{number}.log").open("w+")
        started.append(subprocess.Popen(on_host(number, own_files), stdout=log, stderr=log, env=environment()))
        text = folder / f"host{number}.log"
        until(lambda text=text: "runtime started" in text.read_text(), 60, f"Ray does not start, see {text}")  # type: ignore[misc]
    until(lambda: len(addresses()) == len(HOSTS), 60, "not all hosts joined")
    try:
        yield
    finally:
        for process in started:
            process.kill()


def exercise(folder: Path, bucket: ObjectStore) -> Iterator[Row]:
    run(f"{BIN}/hpa-ray synth synth.num_images={NUM_IMAGES} synth.image_size=64 synth.output={folder}/atlas")
    for path in (folder / "atlas" / "train").iterdir():
        bucket.put("hpa", f"train/{path.name}", path.read_bytes())
    bucket.put("hpa", "train.csv", (folder / "atlas" / "train.csv").read_bytes())
    yield prepared(bucket)
    yield trained(bucket)
    yield searched(bucket)
    yield predicted(bucket)
    yield cut_off(bucket)


def prepared(bucket: ObjectStore) -> Row:
    job = Job(bucket, "prepare", *IMAGES, "prepare.output=s3://hpa/shards")
    number = job.wait().get("num_images")
    return job.row("prepare, from the store and to it", f"{number} images", number == NUM_IMAGES)


def trained(bucket: ObjectStore) -> Row:
    job = Job(bucket, "train", *TRAINING, "run.name=two", "train.epochs=2", "train.num_workers=2")
    status = job.wait().get("status")
    reading, training = job.hosts("_map_task"), job.hosts("RayTrainWorker")
    good = status == "done" and training == {f"{NET}.2", f"{NET}.3"} and reading == {f"{NET}.1"}
    return job.row("train, two workers", f"{status}; data read on {', '.join(sorted(reading))}", good)


def searched(bucket: ObjectStore) -> Row:
    words = [
        "tune.space=lr",
        "tune.metric=map",
        "tune.trials=3",
        "tune.finalists=0",
        "train.epochs=1",
        "train.num_workers=1",
    ]
    job = Job(bucket, "tune", *TRAINING, *words, "run.name=study")
    job.wait()
    outcomes = [bucket.get("hpa", f"runs/study/trials/{number:04d}/outcome.json") for number in range(3)]
    statuses = [json.loads(outcome)["status"] for outcome in outcomes]
    return job.row("tune, three trials", ", ".join(statuses), set(statuses) <= {"done", "stopped"})


def predicted(bucket: ObjectStore) -> Row:
    words = ["predict.run=s3://hpa/runs/two", "predict.num_workers=2", "predict.output=s3://hpa/out"]
    job = Job(bucket, "predict", "data.images=s3://hpa/train", *words)
    number = job.wait().get("num_images")
    return job.row("predict, two actors", f"{number} images", number == NUM_IMAGES)


def cut_off(bucket: ObjectStore) -> Row:
    epochs = 12
    words = [f"train.epochs={epochs}", "train.num_workers=1..2", "train.checkpoint_every=5 steps"]
    job = Job(bucket, "train", *TRAINING, *words, "run.name=cut")
    until(lambda: epochs_of(bucket, "cut") >= 2 or job.ended, SLOWEST_S, "no epoch is done")
    workers, before = job.hosts("RayTrainWorker"), epochs_of(bucket, "cut")
    run("ip -n host3 link set eth0 down")
    cut_at = time.monotonic()
    until(lambda: epochs_of(bucket, "cut") > before + 1 or job.ended, SLOWEST_S, "training does not go on")
    pause_s = time.monotonic() - cut_at
    status = job.wait().get("status")
    lines = [json.loads(line) for line in bucket.get("hpa", "runs/cut/metrics.jsonl").splitlines()]
    good = status == "done" and [line["epoch"] for line in lines] == list(range(1, epochs + 1)) and len(workers) == 2
    found = f"cut after epoch {before}, the next one {pause_s:.0f} s later; {status}, {len(lines)} epochs"
    return job.row("train, one of its two hosts cut off", found, good)


class Job:
    """A verb given to the cluster by `ray job submit`."""

    def __init__(self, bucket: ObjectStore, verb: str, *words: str) -> None:
        self.began = time.monotonic()
        self.seen: dict[str, set[str]] = defaultdict(set)
        env = {
            "env_vars": bucket.environment(direct=True) | {"NO_PROXY": f"{NET}.0/24", "HPA_RAY_HOME": "/tmp/hosts/home"}
        }
        command = [str(BIN / "ray"), "job", "submit", "--address", DASHBOARD, "--working-dir", str(ROOT)]
        command += ["--runtime-env-json", json.dumps(env), "--", sys.executable, f"jobs/{verb}.py", *words]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> dict[str, Any]:
        """The JSON line at the end of the job's log."""
        out, _ = self.process.communicate(timeout=SLOWEST_S)
        self.seconds = time.monotonic() - self.began
        self.hosts("")
        line = next((line for line in reversed(out.splitlines()) if line.startswith("{")), "{}")
        if self.process.returncode:
            raise SystemExit(f"hosts: the job failed\n{out[-6000:]}")
        result: dict[str, Any] = json.loads(line)
        return result

    def hosts(self, name: str) -> set[str]:
        """Addresses of the hosts on which tasks or actors of this name have run."""
        from ray.util.state import list_actors, list_tasks

        address = addresses()
        for task in list_tasks(address=DASHBOARD, limit=10_000, detail=True, raise_on_missing_output=False):
            if task.type == "NORMAL_TASK" and task.node_id in address:
                self.seen[task.func_or_class_name].add(address[task.node_id])
        for actor in list_actors(address=DASHBOARD, limit=1_000, detail=True, raise_on_missing_output=False):
            if actor.node_id in address:
                self.seen[actor.class_name].add(address[actor.node_id])
        return self.seen[name]

    def row(self, what: str, found: str, is_good: bool) -> Row:
        where = ", ".join(sorted(self.seen["RayTrainWorker"] | self.seen["_map_task"]))
        return Row(what, self.seconds, where, found, is_good and self.process.returncode == 0)


def addresses() -> dict[str, str]:
    """Id -> address of every node that ever joined."""
    from ray.util.state import list_nodes

    try:
        return {node.node_id: node.node_ip for node in list_nodes(address=DASHBOARD, raise_on_missing_output=False)}
    except Exception:  # the dashboard is not there yet
        return {}


def epochs_of(bucket: ObjectStore, name: str) -> int:
    try:
        return len(bucket.get("hpa", f"runs/{name}/metrics.jsonl").splitlines())
    except AssertionError:  # no such object
        return 0


def on_host(number: int, command: list[str]) -> list[str]:
    return ["ip", "netns", "exec", f"host{number}", *command]


def environment() -> dict[str, str]:
    from hpa_ray import cluster

    own = {key: value for key, value in os.environ.items() if key not in ("http_proxy", "https_proxy")}
    return own | cluster.ENVIRONMENT | {"RAY_AUTH_MODE": "disabled"}


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL)


def until(is_so: Any, timeout_s: float, problem: str) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"hosts: {problem}")
        time.sleep(0.5)


def write_table(folder: Path, rows: list[Row]) -> None:
    lines = ["| on three hosts | hosts that worked | found | s | as it should be |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {r.what} | {r.where} | {r.found} | {r.seconds:.0f} | {'yes' if r.is_good else 'NO'} |" for r in rows]
    (folder / "hosts.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
