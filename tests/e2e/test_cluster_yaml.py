"""cluster.yaml: Ray takes it, and its node types come when a job needs them, do what they are for, and go."""

import copy
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fake_cloud import Cloud, fake_cloud

from hpa_ray.cluster.placement import LABELS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster.yaml"
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    folder = tempfile.TemporaryDirectory(prefix="hr", dir="/tmp", ignore_cleanup_errors=True)  # short: for sockets
    with folder as path, fake_cloud(FILE, Path(path)) as started:
        yield started


class Watch:
    """Roles of the nodes that are there, every half second."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud, self.seen, self.ended = cloud, list[dict[str, int]](), threading.Event()
        self.role_of: dict[str, str] = {}

    def look(self) -> dict[str, int]:
        from ray.util.state import list_nodes

        count: dict[str, int] = defaultdict(int)
        for node in list_nodes(address=self.cloud.dashboard, raise_on_missing_output=False):
            role = node.labels.get("ray-subcluster") or node.labels.get("hpa-ray/role", "head")
            self.role_of[node.node_id] = role
            count[role] += node.state == "ALIVE"
        return dict(count)

    def __enter__(self) -> "Watch":
        def watch() -> None:
            while not self.ended.wait(0.5):
                self.seen.append(self.look())

        self.thread = threading.Thread(target=watch)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()


def test_ray_takes_the_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(FILE.read_text())
    whole = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    assert whole["available_node_types"].keys() == config["available_node_types"].keys()


def test_the_head_says_what_may_come_and_no_node_is_open_to_the_world() -> None:
    config = yaml.safe_load(FILE.read_text())
    types = config["available_node_types"]
    said = {key: int(value) for key, value in types[config["head_node_type"]]["labels"].items()}
    for role, (key, value) in LABELS.items():
        kind = types[role]
        assert kind["labels"] == {key: value}
        for resource, amount in kind["resources"].items():
            assert said.pop(f"hpa-ray/{role}-{resource.lower()}s") == amount * kind["max_workers"]
    assert not said
    for kind in types.values():
        assert kind["node_config"]["SecurityGroupIds"]  # else Ray makes one with port 22 open to all addresses
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert commands.count("ray start") == commands.count("RAY_AUTH_MODE=token") == 2
    assert "--dashboard-host=127.0.0.1" in commands


def test_nodes_start_for_a_job_do_what_they_are_for_and_go(
    cloud: Cloud, atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.util.state import list_actors, list_tasks

    monkeypatch.delenv("RAY_ADDRESS", raising=False)  # Ray would ask that cluster, whatever address it is given
    submit = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", cloud.dashboard]
    job = [
        *(
            sys.executable,
            str(ROOT / "jobs" / "train.py"),
            f"data.images={atlas}/train",
            f"data.labels={atlas}/train.csv",
        ),
        *("data.image_size=32", "model.name=resnet18", "train.epochs=1", "split.parts=0.6/0.2/0.2"),
        *(
            "train.batch_size=8",
            "train.num_workers=2",
            "train.use_gpu=false",
            f"run.storage={tmp_path}",
            "run.name=cloud",
        ),
    ]
    with Watch(cloud) as watch:
        assert watch.look() == {"head": 1}
        # no --working-dir: the nodes share this machine's folder for it, and each would empty it when it goes
        command = [*submit, "--", *job]
        end = time.monotonic() + 60
        while True:
            done = subprocess.run(command, capture_output=True, text=True, timeout=400)
            if "No available agent" not in done.stderr or time.monotonic() > end:  # the head has just started
                break
            time.sleep(1)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        tasks = list_tasks(address=cloud.dashboard, limit=10_000, detail=True, raise_on_missing_output=False)
        actors = list_actors(address=cloud.dashboard, limit=1_000, detail=True, raise_on_missing_output=False)
        for role in LABELS:  # how many is the autoscaler's affair: a slow machine may be given a second reader
            assert max(count.get(role, 0) for count in watch.seen) >= 1, role
        end = time.monotonic() + 120
        while watch.look() != {"head": 1, "data": 0, "training": 0}:
            assert time.monotonic() < end, watch.look()
            time.sleep(1)

    where: dict[str, set[str]] = defaultdict(set)
    for task in tasks:
        if task.type == "NORMAL_TASK" and task.node_id:
            where[task.func_or_class_name].add(watch.role_of[task.node_id])
    for actor in actors:
        where[actor.class_name].add(watch.role_of[actor.node_id])
    assert where["RayTrainWorker"] == {"training"}
    assert where["_map_task"] == {"data"}  # all that Ray Data does for this job
    for name in (
        "JobSupervisor",
        "TrainController",
        "Mailbox",
        "_StatsActor",
    ):  # they outlive other nodes
        assert where[name] == {"head"}, name
