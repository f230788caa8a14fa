"""Hours, nodes that read and cost of a run on several numbers of GPU nodes, from what was measured. Before: verdict."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from hpa_ray.bench.verdict import nodes_of


class PlanRow(NamedTuple):
    gpu_nodes: int
    gpus: int
    images_per_s: float
    hours: float
    cpus: float
    """That read."""
    cpu_nodes: int
    cost: float | None
    """None where no price is known."""

    def as_json(self) -> dict[str, Any]:
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in self._asdict().items()}


def make_plan(
    gpu_nodes: Iterable[int],
    *,
    images: int,
    epochs: int,
    train_per_gpu: float,
    read_per_cpu: float,
    gpus_per_node: int,
    cpus_per_node: int,
    price_gpu_node_hour: float,
    price_cpu_node_hour: float,
) -> list[PlanRow]:
    """A row for each number n of GPU nodes; rates are in images/s of one GPU and of one CPU.

        gpus       = n x gpus_per_node
        images/s   = gpus x train_per_gpu
        hours      = images x epochs / images/s / 3600
        cpus       = images/s / read_per_cpu
        cpu_nodes  = cpus / cpus_per_node, rounded up
        cost       = hours x (n x price_gpu_node_hour + cpu_nodes x price_cpu_node_hour)

    All grows linearly: neither gradients that travel between nodes nor a store, a network or a head that is at its
    limit are in it, nor validation, checkpoints and the start. CPUs of GPU nodes are not counted among those that read.
    """
    rows = []
    for n in gpu_nodes:
        gpus = n * gpus_per_node
        images_per_s = gpus * train_per_gpu
        hours = images * epochs / images_per_s / 3600
        cpus = images_per_s / read_per_cpu
        cpu_nodes = nodes_of(cpus, cpus_per_node)
        cost = hours * (n * price_gpu_node_hour + cpu_nodes * price_cpu_node_hour)
        priced = price_gpu_node_hour or price_cpu_node_hour
        rows.append(PlanRow(n, gpus, images_per_s, hours, cpus, cpu_nodes, cost if priced else None))
    return rows
