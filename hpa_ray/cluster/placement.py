"""Which nodes read images and which train, where a cluster keeps them apart, and how much there can be of each.

A node says what it is for by a label: `ray-subcluster=data`, by which Ray Data budgets, or `hpa-ray/role=training`. The
keys differ as Ray 2.60 takes a node with the first one, whatever its value, out of what elastic training may count on.
A cluster that starts such nodes only when they are needed says so by labels of its head: `hpa-ray/data-cpus`,
`hpa-ray/training-cpus` and `hpa-ray/training-gpus` are what its autoscaler may come to. Where no node has any of them,
as on a laptop, everything runs everywhere.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

Role = Literal["data", "training"]


LABELS: Mapping[Role, tuple[str, str]] = {"data": ("ray-subcluster", "data"), "training": ("hpa-ray/role", "training")}
"""Key and value."""


class Capacity(NamedTuple):
    cpus: int
    gpus: int
    is_apart: bool
    """Only nodes of the role count; else all do."""


def selector(role: Role) -> dict[str, str] | None:
    """What Ray takes for `label_selector`; None where no node has the role and none can come."""
    key, value = LABELS[role]
    return {key: value} if capacity(role).is_apart else None


def model_options() -> dict[str, Any]:
    """What actors of a Ray Data pipeline take that hold a model: nodes for training, not the pipeline's own."""
    place = selector("training")
    if place is None:
        return {}
    key, value = LABELS["data"]
    return {"label_selector": place | {key: f"!{value}"}}  # the pipeline's selector is added where it says nothing


def capacity(role: Role) -> Capacity:
    """CPUs and GPUs for one kind of work, those that are here or can come, whichever is more."""
    return capacity_of(alive(), role)


def alive() -> list[Mapping[str, Any]]:
    """As `ray.nodes` has them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def resources(role: Role) -> list[dict[str, float]]:
    """Of each node that has the role; those that can come count as one. Where none has it, of all nodes."""
    nodes = alive()
    total = capacity_of(nodes, role)
    if not total.is_apart:
        return [node["Resources"] for node in nodes]
    own = [node["Resources"] for node in nodes if _has(node, role)]
    missing = {
        name: most - sum(node.get(name, 0.0) for node in own)
        for name, most in (("CPU", total.cpus), ("GPU", total.gpus))
    }
    return [*own, missing]


def capacity_of(nodes: Iterable[Mapping[str, Any]], role: Role) -> Capacity:
    nodes = list(nodes)
    own = [node for node in nodes if _has(node, role)]
    coming = {
        name: max((_whole(node["Labels"].get(f"hpa-ray/{role}-{name}s")) for node in nodes), default=0)
        for name in ("cpu", "gpu")
    }
    is_apart = bool(own) or any(coming.values())
    here = {
        name: int(sum(node["Resources"].get(name.upper(), 0) for node in (own if is_apart else nodes)))
        for name in coming
    }
    return Capacity(max(coming["cpu"], here["cpu"]), max(coming["gpu"], here["gpu"]), is_apart)


def _has(node: Mapping[str, Any], role: Role) -> bool:
    key, value = LABELS[role]
    return bool(node["Labels"].get(key) == value)


def _whole(label: str | None) -> int:
    return int(label) if label and label.isdecimal() else 0
