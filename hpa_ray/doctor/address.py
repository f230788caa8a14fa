"""Which Ray a training would use, and whether something answers there: by the network and files alone, without Ray.

ray.init waits for minutes where nothing answers, so the port is tried first.
"""

import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hpa_ray.cluster import DATA_CPUS, others_run_ray
from hpa_ray.config import Config
from hpa_ray.doctor.findings import Finding, fail, ok, reason, warn
from hpa_ray.doctor.machine import Machine, existing
from hpa_ray.errors import InputError
from hpa_ray.storage import shown

CLIENT = "ray://"
CURRENT_CLUSTER = "ray_current_cluster"
"""In Ray's folder for temporary files: the address of the last `ray start` of this machine."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of gRPC says first. A server answers by a frame of settings: nine bytes, the fourth of them a 4."""
SOCKET = "/session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store.sock"
LONGEST_SOCKET = 107
"""Bytes of the path of a socket that Linux takes."""


class Cluster(NamedTuple):
    """A Ray that is there to be joined."""

    address: str
    known_by: str

    @property
    def by_client(self) -> bool:
        return self.address.startswith(CLIENT)


def find_cluster(
    temp: str,
    environment: Mapping[str, str] = os.environ,
    processes: Path = Path("/proc"),
    trusted: Collection[int] | None = None,
) -> Cluster | None:
    """The one that `train` would join; None if it would start one. Raises InputError for an address of another kind.

    RAY_ADDRESS first, then a Ray of this machine, of several the one started last, unless another user started any.
    """
    given = environment.get("RAY_ADDRESS", "")
    if given and given not in ("auto", "local"):
        known_by = f"RAY_ADDRESS = {shown(given)}"
        _host_port(given, known_by)
        return Cluster(given, known_by)
    if given == "local":
        return None
    if not given and others_run_ray(processes, Path(temp, CURRENT_CLUSTER), trusted):
        return None
    running = sorted(set(_of_processes(processes)))
    last = Path(temp, CURRENT_CLUSTER)
    if len(running) != 1 and last.exists():
        return Cluster(last.read_text().strip(), str(last))
    if running:
        return Cluster(running[0], "a Ray of this machine")
    if given == "auto":
        raise InputError("RAY_ADDRESS = auto: no Ray runs on this machine - start one, or unset it")
    return None


def check_address(cluster: Cluster, *, timeout_s: float, environment: Mapping[str, str] = os.environ) -> Finding | None:
    """Nothing if something like Ray answers there, and it is the cluster itself."""
    host, port = _host_port(cluster.address, cluster.known_by)
    why = no_connection(host, port, timeout_s=timeout_s)
    if why is None and environment.get("RAY_USE_TLS") != "1" and not speaks_grpc(host, port, timeout_s=timeout_s):
        why = "the port is open, but not one of Ray"
    if why is None and cluster.by_client:
        change = "run this on the cluster by `ray job submit`, or give HOST:PORT of the cluster (6379)"
        return warn("ray", f"{cluster.known_by}: is that of Ray Client, by which no training is tested", change)
    if why is None:
        return None
    if cluster.known_by.endswith(CURRENT_CLUSTER):
        found = f"{cluster.known_by} names {cluster.address}, where no Ray answers ({why})"
        return fail("ray", found, "delete this file, or start that Ray again")
    change = "start that cluster, or unset RAY_ADDRESS"
    return fail("ray", f"{cluster.known_by}: no Ray answers there ({why})", change)


def no_connection(host: str, port: int, *, timeout_s: float) -> str | None:
    """Why a TCP connection is not made; None if it is."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except TimeoutError:
        return f"no connection within {timeout_s:g} s"
    except OSError as error:
        return reason(error)
    return None


def speaks_grpc(host: str, port: int, *, timeout_s: float) -> bool:
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(HELLO)
            frame = connection.recv(9)
    except OSError:
        return False
    return len(frame) > 3 and frame[3] == 4


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


def _host_port(address: str, known_by: str) -> tuple[str, int]:
    """Raises InputError for what is no HOST:PORT."""
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"{known_by}: is that of a dashboard, for `ray job submit` - "
            "for this give HOST:PORT of the cluster (6379), or unset it"
        )
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if not (colon and port.isdigit() and host):
        raise InputError(f"{known_by}: is no HOST:PORT - give such as 10.0.0.1:6379")
    return host.strip("[]"), int(port)


def _of_processes(folder: Path) -> Iterator[str]:
    """The addresses of the clusters that the raylets of this machine belong to."""
    for path in folder.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended, or is another user's
            continue
        if os.path.basename(words[0]) == "raylet":
            yield from (word.partition("=")[2] for word in words if word.startswith("--gcs-address="))
