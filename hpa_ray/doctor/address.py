"""Whether the Ray that a training would use can be used: by the network, files and variables alone, without Ray."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hpa_ray.cluster import DATA_CPUS
from hpa_ray.cluster.address import Cluster, mend, silence
from hpa_ray.config import Config
from hpa_ray.doctor.findings import Finding, fail, ok, warn
from hpa_ray.doctor.machine import Machine, existing

SOCKET = "/session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store.sock"
LONGEST_SOCKET = 107
"""Bytes of the path of a socket that Linux takes."""


def check_address(cluster: Cluster, *, timeout_s: float, environment: Mapping[str, str] = os.environ) -> Finding | None:
    """Nothing if something like Ray answers there, and it is the cluster itself."""
    why = silence(cluster, timeout_s=timeout_s, environment=environment)
    if why is not None:
        return fail("ray", f"{cluster.known_by}: no Ray answers there ({why})", mend(cluster))
    if cluster.by_client:
        change = "run this on the cluster by `ray job submit`, or give HOST:PORT of the cluster (6379)"
        return warn("ray", f"{cluster.known_by}: is that of Ray Client, by which no training is tested", change)
    return None


def check_own_ray(config: Config, machine: Machine, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Where no Ray runs: the one that a training would start on this machine."""
    cpus = max(machine.cpus, config.train.num_workers + DATA_CPUS)
    yield ok("ray", f"none runs here: one would be started with {cpus} CPUs")
    if len((machine.temp + SOCKET).encode()) > LONGEST_SOCKET:
        found = f"{machine.temp}: too long for the names of Ray's sockets ({LONGEST_SOCKET} bytes)"
        yield fail("ray", found, "set RAY_TMPDIR=/tmp")
    elif not os.access(existing(machine.temp), os.W_OK):
        yield fail("ray", f"{machine.temp}: can not be written to", "set RAY_TMPDIR to a folder that can")
    mode, home = environment.get("RAY_AUTH_MODE", "token"), str(Path.home())
    if mode == "disabled":
        found = "RAY_AUTH_MODE=disabled: who reaches the ports of this machine can run programs on it"
        yield warn("ray token", found, "unset it where others are on the network")
    elif not has_token(environment) and not os.access(home, os.W_OK):
        found = f"Ray writes a token to {home}/.ray, where this user can not write"
        yield fail("ray token", found, "set RAY_AUTH_TOKEN_PATH, or RAY_AUTH_MODE=disabled")


def check_token(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    path = environment.get("RAY_AUTH_TOKEN_PATH")
    if path and not os.path.isfile(path):
        yield fail("ray token", f"RAY_AUTH_TOKEN_PATH = {path}: no such file", "mend or unset it")


def has_token(environment: Mapping[str, str] = os.environ) -> bool:
    path = environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return bool(environment.get("RAY_AUTH_TOKEN")) or os.path.isfile(path)


HARMFUL: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "RAY_TRAIN_V2_ENABLED": (
        lambda value: value.lower() in ("0", "false"),
        "the training is written for version 2 of Ray Train",
    ),
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": (
        lambda value: value.lower() not in ("0", "false"),
        "under `uv run`, every worker installs the environment anew",
    ),
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": (
        lambda value: value.startswith("-"),
        "a rank that never reports is waited for for ever",
    ),
    "RAY_memory_monitor_refresh_ms": (
        lambda value: value == "0",
        "when memory runs out the kernel ends any process, not the newest worker",
    ),
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": (
        lambda value: value not in ("", "0"),
        "the object store may be put on a disk, which is slow",
    ),
    "RAY_OVERRIDE_RESOURCES": (
        lambda value: bool(value),
        "Ray takes the machine for another than it is",
    ),
}
"""Variables of Ray -> the values that hurt, and how."""


def check_variables(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    for name, (hurts, how) in HARMFUL.items():
        value = environment.get(name)
        if value is not None and hurts(value):
            yield warn("ray variables", f"{name} = {value[:40]}: {how}", "unset it")
    for name in sorted(environment):
        if name.startswith("RAY_testing_"):
            yield warn("ray variables", f"{name} is set: Ray makes failures of its own", "unset it")
