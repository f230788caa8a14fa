"""Which Ray would be joined, and whether one answers there: by the network and files alone, without Ray.

ray.init waits for minutes where nothing answers, so the port is tried first.
"""

import contextlib
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hpa_ray.errors import InputError
from hpa_ray.storage import shown

CLIENT = "ray://"
CURRENT_CLUSTER = "ray_current_cluster"
"""In Ray's folder for temporary files: the address of the last `ray start` of this machine."""
CONNECT_S = 3.0
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of gRPC says first. A server answers by a frame of settings: nine bytes, the fourth of them a 4."""


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
    """The one to join; None if there is none. Raises InputError for an address of another kind.

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
        address = last.read_text().strip()
        cluster = Cluster(address, f"{last} names {shown(address)}")
        if running or silence(cluster, environment=environment) is None:  # else it is left from before
            return cluster
    if running:
        return Cluster(running[0], f"a Ray of this machine at {running[0]}")
    if given == "auto":
        raise InputError("RAY_ADDRESS = auto: no Ray runs on this machine - start one, or unset it")
    return None


def silence(
    cluster: Cluster, *, timeout_s: float = CONNECT_S, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Why there is nothing like Ray at the address of a cluster; None if there is."""
    host, port = _host_port(cluster.address, cluster.known_by)
    why = no_connection(host, port, timeout_s=timeout_s)
    if why is None and environment.get("RAY_USE_TLS") != "1" and not speaks_grpc(host, port, timeout_s=timeout_s):
        why = "the port is open, but not one of Ray"
    return why


def expect_answer(cluster: Cluster, *, within_s: float = 0.0) -> None:
    """Raises InputError if no Ray answers there within a time; it is asked again and again, for heads restart."""
    end = time.monotonic() + within_s
    while (why := silence(cluster)) is not None:
        if time.monotonic() > end:
            raise InputError(f"{cluster.known_by}: no Ray answers there ({why}) - {mend(cluster)}")
        time.sleep(0.5)


def mend(cluster: Cluster) -> str:
    """What to do where no Ray answers."""
    if cluster.known_by.startswith("RAY_ADDRESS"):
        return "start that cluster, or unset RAY_ADDRESS"
    return "its head has ended: end the rest of it too, or set RAY_ADDRESS=local to start another"


def ray_temp(environment: Mapping[str, str] = os.environ) -> str:
    """Where a Ray that is started here keeps its sockets and logs and what its object store spills."""
    return os.path.join(environment.get("RAY_TMPDIR") or environment.get("TMPDIR") or "/tmp", "ray")


def no_connection(host: str, port: int, *, timeout_s: float) -> str | None:
    """Why a TCP connection is not made; None if it is."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except TimeoutError:
        return f"no connection within {timeout_s:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return None


def speaks_grpc(host: str, port: int, *, timeout_s: float) -> bool:
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(HELLO)
            frame = connection.recv(9)
    except OSError:
        return False
    return len(frame) > 3 and frame[3] == 4


def others_run_ray(
    processes: Path = Path("/proc"), mark: Path | None = None, trusted: Collection[int] | None = None
) -> bool:
    """Whether Ray might find a cluster on this machine that was started by another user than this one and root.

    It looks at all processes, and into a file of a folder that everybody may write to.
    """
    if not hasattr(os, "getuid"):
        return False
    trusted = trusted or (0, os.getuid())
    mark = mark or Path(ray_temp(), CURRENT_CLUSTER)
    found = [path for path in processes.glob("[0-9]*/cmdline") if _is_raylet(path)]
    for path in (*found, mark):
        with contextlib.suppress(OSError):  # it has ended, or there is none
            if path.stat().st_uid not in trusted:
                return True
    return False


def _is_raylet(command: Path) -> bool:
    try:
        return os.path.basename(command.read_bytes().partition(b"\0")[0]) == b"raylet"
    except OSError:  # it has ended, or is hidden
        return False


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
