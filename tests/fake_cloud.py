"""cluster.yaml on one machine: its node types, with their resources and labels, started on demand as processes.

Ray's own `AutoscalingCluster` reads a file that its wheel does not have, and ends every Ray of the machine.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from loopback import free_port

HEAD_ID = "f" * 51 + "00000"
HEAD_TYPE = "ray.head.default"  # both are fixed in Ray's fake provider
MAX_STORE_BYTES = 200 * 2**20


class Cloud(NamedTuple):
    address: str
    dashboard: str


def fake_config(path: Path, *, idle_minutes: float, gcs: str) -> dict[str, Any]:
    """What Ray's fake provider takes, with the node types of a cluster.yaml."""
    real = yaml.safe_load(path.read_text())
    types = {
        HEAD_TYPE if name == real["head_node_type"] else name: {
            "resources": kind["resources"] | {"object_store_memory": MAX_STORE_BYTES},
            "labels": kind.get("labels", {}),
            "node_config": {},
            **{key: kind[key] for key in ("min_workers", "max_workers", "priority") if key in kind},
        }
        for name, kind in real["available_node_types"].items()
    }
    types[HEAD_TYPE]["max_workers"] = 0
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": real["cluster_name"],
        "max_workers": real["max_workers"],
        "upscaling_speed": real["upscaling_speed"],
        "idle_timeout_minutes": idle_minutes,
        "provider": {
            "type": "external",  # for its own name Ray looks for a file of defaults that its wheel does not have
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": HEAD_TYPE,
        "available_node_types": types,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    } | {f"{name}_commands": [] for name in commands}


@contextlib.contextmanager
def fake_cloud(path: Path, folder: Path, *, idle_minutes: float = 0.25) -> Iterator[Cloud]:
    """The head of a cluster, alone at first; folder: a short path, for Ray's files."""
    port, dashboard = free_port(), free_port()
    from ray.util import get_node_ip_address

    gcs = f"{get_node_ip_address()}:{port}"
    config = fake_config(path, idle_minutes=idle_minutes, gcs=gcs)
    (folder / "config.json").write_text(json.dumps(config))
    head = config["available_node_types"][HEAD_TYPE]
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"),
        *(f"--num-cpus={head['resources']['CPU']}", "--num-gpus=0", f"--object-store-memory={MAX_STORE_BYTES}"),
        # beside another cluster of this machine
        *(f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--autoscaling-config={folder}/config.json", f"--temp-dir={folder}", "--disable-usage-stats"),
        "--labels=" + ",".join(f"{key}={value}" for key, value in head["labels"].items()),
    ]
    environment = os.environ | {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    environment.pop("RAY_ADDRESS", None)
    with (folder / "ray.log").open("wb") as log:
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(started, folder / "ray.log", timeout_s=60)
            yield Cloud(gcs, f"http://127.0.0.1:{dashboard}")
        finally:
            started.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(3)
            end_processes(str(folder))


def _wait(process: subprocess.Popen[bytes], log: Path, *, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while "runtime started" not in (text := log.read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < end, text
        time.sleep(0.2)


def end_processes(folder: str) -> None:
    """Those of the cluster whose files are there; workers end with their raylets."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if folder.encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                os.kill(int(path.parent.name), signal.SIGKILL)
