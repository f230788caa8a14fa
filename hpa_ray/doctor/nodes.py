"""The cluster that a training would join, and each of its nodes. Runs in a process of its own (child).

Which has RAY_ADDRESS, so that no Ray is ever started here.
"""

import logging
import socket
import time
from typing import Any

import ray
import requests
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpa_ray import cluster, storage
from hpa_ray.cluster.address import no_connection
from hpa_ray.doctor.findings import reason
from hpa_ray.doctor.machine import survey
from hpa_ray.doctor.places import MARK, no_traces, read_rate, round_trip
from hpa_ray.errors import InputError
from hpa_ray.storage import exists, is_local, join

CONNECT_S = 3.0


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """num_workers, settings of storage, folder of the probe, files, timeout_s -> cluster and nodes."""
    storage.configure(storage.Settings(**question["settings"]))
    found: dict[str, Any] = {"joined": False, "problems": [], "nodes": []}
    try:
        cluster.start_ray(question["num_workers"])
    except InputError as error:
        found["problems"] = list(error.problems)
    except Exception as error:  # versions that differ, a token that is missing, no raylet on this machine
        found["problems"] = [reason(error)]
    if not ray.is_initialized():
        return found
    context = ray.init(ignore_reinit_error=True, logging_level=logging.ERROR)
    dashboard = context.dashboard_url or ""
    found |= {"joined": True, "dashboard": dashboard, "is_open": _is_open(dashboard), "num_gpus": cluster.num_gpus()}
    found["num_cpus"] = int(ray.cluster_resources().get("CPU", 0))
    found["nodes"] = _ask_nodes(question)
    return found


def _is_open(dashboard: str) -> bool:
    """Whether it takes programs from anybody who reaches it."""
    try:
        return bool(dashboard) and requests.get(f"http://{dashboard}/api/jobs/", timeout=CONNECT_S).ok
    except requests.RequestException:
        return False


def _ask_nodes(question: dict[str, Any]) -> list[dict[str, Any]]:
    """A task on every node that lives; those without an answer in time have an error."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    reports: dict[Any, dict[str, Any]] = {}
    with socket.create_server(("", 0)) as listener:
        asked = question | {"address": (ray.util.get_node_ip_address(), listener.getsockname()[1])}
        for node in alive:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
            reports[task.remote(asked, node["NodeID"])] = {
                "node": node["NodeManagerHostname"],
                "ray_gpus": int(node["Resources"].get("GPU", 0)),
            }
        waiting, deadline = list(reports), time.monotonic() + question["timeout_s"]
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            now_s = time.time()
            reports[ready[0]] |= _result(ready[0], now_s)
    for task in waiting:
        reports[task]["error"] = f"no answer within {question['timeout_s']:g} s"
        ray.cancel(task, force=True)
    return list(reports.values())


def _result(task: Any, now_s: float) -> dict[str, Any]:
    try:
        report: dict[str, Any] = ray.get(task)
    except Exception as error:  # the node is lost, or can not import what it takes
        cause = getattr(error, "cause", None) or error
        return {"error": f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1][:200]}"}
    return report | {"skew_s": report["machine"]["now_s"] - now_s}


def look(question: dict[str, Any], name: str) -> dict[str, Any]:
    """On a node: what it has, and whether it reaches what the driver reaches."""
    storage.configure(storage.Settings(**question["settings"]))
    report: dict[str, Any] = {"storage_s": None, "read_bps": None, "storage_error": "", "sees_mark": True}
    if folder := question["folder"]:
        try:
            with no_traces(folder):
                report["storage_s"] = round_trip(folder, name)
                report["sees_mark"] = exists(join(folder, MARK))
                if not is_local(folder):  # else it tells of the memory of this node
                    report["read_bps"] = read_rate(folder, name)
        except (InputError, OSError) as error:
            report["storage_error"] = reason(error)
    report["missing"] = {file: why for file in question["files"] if (why := _why_not(file))}
    report["no_connection"] = no_connection(*question["address"], timeout_s=CONNECT_S)
    report["machine"] = survey()._asdict()  # last: its clock is that of the answer
    return report


def _why_not(uri: str) -> str:
    """A file or folder can not be read; empty if it is there."""
    try:
        return "" if exists(uri) else "is not there"
    except (InputError, OSError) as error:
        return reason(error)
