"""Several real Ray nodes on this machine, to be killed, for benchmarks of what is lost then."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Nodes:
    """A Ray cluster of three nodes on this machine, the first without work of its own."""

    def __init__(self) -> None:
        from hpa_ray import cluster

        for name, value in cluster.ENVIRONMENT.items():
            os.environ.setdefault(name, value)

    def __enter__(self) -> "Nodes":
        from ray.cluster_utils import Cluster

        store = {"object_store_memory": 80 * 2**20}  # about the least Ray takes: what is read ahead is soon more
        self._store = store
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **store}
        )
        self.others: list[Any] = []
        self.add()
        self.add()
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        self.others.append(self._cluster.add_node(num_cpus=2, resources={"training": 1}, **self._store))

    def choose(self) -> None:
        """The node that goes next is one with a train worker, if there is any."""
        with_worker = {parent for pid, parent in parents() if b"RayTrainWorker" in command_of(pid)}
        self.others.sort(key=lambda node: node.all_processes["raylet"][0].process.pid not in with_worker)

    def tell_to_go(self, seconds: float) -> None:
        """Give notice, as a cloud does of a spot machine, that the node that goes next does so that soon."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        deadline_ms = int((time.time() + seconds) * 1000)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, problem = GcsClient(address=self.address).drain_node(
            self.others[0].node_id, reason, "the machine is taken back", deadline_ms
        )
        if not accepted:
            raise RuntimeError(problem)

    def replace(self, *, join: bool) -> None:
        """Kill all processes of one node; another one may join."""
        self._cluster.remove_node(self.others.pop(0), allow_graceful=False)
        if join:
            self.add()

    def restart(self) -> None:
        """Kill the whole cluster, head first, and start another one."""
        for process in self._cluster.head_node.all_processes["gcs_server"]:
            process.process.kill()
        self._cluster.shutdown()
        self.__enter__()

    def pids(self) -> list[int]:
        """Of the processes that work for the nodes' raylets."""
        raylets = {node.all_processes["raylet"][0].process.pid for node in self._cluster.list_all_nodes()}
        return [pid for pid, parent in parents() if parent in raylets]

    def all_pids(self) -> list[int]:
        """Of the nodes' own processes and those that work for them."""
        nodes = self._cluster.list_all_nodes()
        own = [info.process.pid for node in nodes for infos in node.all_processes.values() for info in infos]
        return own + self.pids()

    def object_store_bytes(self) -> int:
        """In use, in the object stores of all nodes."""
        from ray._private.internal_api import get_memory_info_reply, get_state_from_address

        reply = get_memory_info_reply(get_state_from_address(self.address))
        return int(reply.store_stats.object_store_bytes_used)


def command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def parents() -> Iterator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            yield int(stat.parent.name), int(fields[1])
