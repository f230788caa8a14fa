"""deploy/slurm.sbatch from its first to its last line with real Rays, two on this machine in place of two nodes.

Slurm's own commands are small stand-ins: `srun` starts one process per task and passes SIGTERM on to them, `scontrol`
writes down what it was asked for.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SBATCH = Path(__file__).parents[2] / "deploy" / "slurm.sbatch"
pytestmark = pytest.mark.timeout(300)

SRUN = """
import os, signal, subprocess
words = sys.argv[1:]
options = {}
while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    options[name] = value
tasks = [
    subprocess.Popen(words, env={**os.environ, "SLURM_PROCID": str(number)})
    for number in range(int(options["--ntasks"]))
]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks if task.poll() is None])
sys.exit(max(task.wait() for task in tasks))
"""
DRIVER = """
import json, os, signal, sys, time
import ray

ray.init(logging_level="ERROR", log_to_driver=False)

@ray.remote(num_cpus=2)
def node():
    time.sleep(1)
    return ray.get_runtime_context().get_node_id()

found = {
    "address_is": os.environ["RAY_ADDRESS"],
    "address": ray.get_runtime_context().gcs_address == os.environ["RAY_ADDRESS"],
    "nodes_that_work": len(set(ray.get([node.remote() for _ in range(2)]))),
    "cpus": ray.cluster_resources()["CPU"],
    "token": [os.environ["RAY_AUTH_MODE"], oct(os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode)],
    "words": sys.argv[2:],
}
def stop(*_):
    found["stopped"] = True
    write()
    sys.exit(143)
def write():
    with open(sys.argv[1] + ".part", "w") as file:
        json.dump(found, file)
    os.rename(sys.argv[1] + ".part", sys.argv[1])
signal.signal(signal.SIGTERM, stop)
write()
if "wait" in sys.argv:
    time.sleep(600)
"""
INTRUDER = """
import ray
ray.init(logging_level="ERROR")
print("joined")
"""


@contextlib.contextmanager
def job(folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A job of two nodes with two CPUs each."""
    (folder / "bin").mkdir()
    note = f"open({str(folder / 'scontrol')!r}, 'w').write(' '.join(sys.argv[1:]))"
    for name, text in (("srun", SRUN), ("scontrol", note)):
        path = folder / "bin" / name
        path.write_text(f"#!{sys.executable}\nimport sys\n{text}")
        path.chmod(0o700)
    (folder / "driver.py").write_text(DRIVER)
    tmp = tempfile.mkdtemp(prefix="h", dir="/tmp")  # short, for the names of sockets
    slurm = {
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_MEM_PER_NODE": "1000",
        "HPA_RAY_COMMAND": f"{sys.executable} {folder}/driver.py {folder}/found.json",
        "HPA_RAY_SHARED": str(folder / "shared"),
        "HPA_RAY_TMP": tmp,
        "HPA_RAY_WAIT_S": "120",
        "PATH": f"{folder}/bin{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with (folder / "log").open("w") as log:
        started = subprocess.Popen(
            ["bash", SBATCH, *words],
            env={**inherited, **slurm, **environment},
            cwd=folder,
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            yield started
        finally:
            if started.poll() is None:
                started.terminate()
                started.wait(60)
    os.rmdir(tmp)  # every node took its own away


def found(folder: Path, started: subprocess.Popen[str]) -> dict[str, Any]:
    """What the driver found, once it has."""
    path, end = folder / "found.json", time.monotonic() + 120
    while not path.exists():
        assert started.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.2)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def left(job_folder: Path) -> list[str]:
    """Processes of the job that live: each has the folder of its token in its environment."""
    mark = f"RAY_AUTH_TOKEN_PATH={job_folder}/shared/42/token".encode()
    alive = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                alive.append((path.parent / "cmdline").read_text().replace("\0", " "))
    return alive


def test_a_job_runs_its_driver_on_all_nodes_and_leaves_nothing(tmp_path: Path) -> None:
    with job(tmp_path, "train.epochs=3", "train.num_workers=1") as started:
        assert started.wait(180) == 0, (tmp_path / "log").read_text()
    result = found(tmp_path, started)
    del result["address_is"]
    assert result == {
        "address": True,
        "nodes_that_work": 2,
        "cpus": 4.0,
        "token": ["token", "0o100600"],
        "words": [
            "run.name=slurm-42",
            "train.num_workers=2",
            "train.epochs=3",
            "train.num_workers=1",
            "run.resume=true",
        ],
    }
    assert left(tmp_path) == []
    assert os.listdir(tmp_path / "shared") == []
    assert not (tmp_path / "scontrol").exists()


def test_time_is_up_so_the_driver_is_told_and_the_job_is_queued_again(tmp_path: Path) -> None:
    with job(tmp_path, "wait", SLURM_JOB_END_TIME=str(int(time.time()) + 120)) as started:
        address = found(tmp_path, started)["address_is"]
        nobody = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        nobody |= {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        intruder = subprocess.run([sys.executable, "-c", INTRUDER], env=nobody, capture_output=True, text=True)
        assert "joined" not in intruder.stdout
        assert "AuthenticationError" in intruder.stderr
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) == 143, (tmp_path / "log").read_text()
    assert found(tmp_path, started)["stopped"]
    assert (tmp_path / "scontrol").read_text() == "requeue 42"
    assert left(tmp_path) == []


def test_who_stops_a_job_early_does_not_find_it_queued_again(tmp_path: Path) -> None:
    with job(tmp_path, SLURM_JOB_END_TIME=str(int(time.time()) + 7200)) as started:
        while "Ray on 2 nodes" not in (tmp_path / "log").read_text():
            assert started.poll() is None
            time.sleep(0.05)
        started.send_signal(signal.SIGTERM)  # before the nodes are together
        assert started.wait(60) == 143, (tmp_path / "log").read_text()
    assert not (tmp_path / "found.json").exists()
    assert not (tmp_path / "scontrol").exists()
    assert left(tmp_path) == []
