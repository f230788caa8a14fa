"""Which nodes are for what, by their labels."""

from typing import Any

import pytest

from hpa_ray.cluster import placement, start
from hpa_ray.cluster.placement import Capacity, capacity_of
from hpa_ray.errors import InputError


def node(labels: dict[str, str], **resources: float) -> dict[str, Any]:
    return {"Alive": True, "Labels": labels, "Resources": resources}


HEAD = node({})
DATA = node({"ray-subcluster": "data"}, CPU=16.0)
TRAINING = node({"hpa-ray/role": "training"}, CPU=8.0, GPU=4.0)
CAN_START = node({"hpa-ray/data-cpus": "64", "hpa-ray/training-cpus": "16", "hpa-ray/training-gpus": "8"})


@pytest.mark.parametrize(
    ("nodes", "data", "training"),
    [
        ([node({}, CPU=4.0)], Capacity(4, 0, False), Capacity(4, 0, False)),
        ([HEAD, DATA, DATA, TRAINING], Capacity(32, 0, True), Capacity(8, 4, True)),
        ([HEAD, DATA, node({}, CPU=2.0, GPU=1.0)], Capacity(16, 0, True), Capacity(18, 1, False)),
        ([CAN_START], Capacity(64, 0, True), Capacity(16, 8, True)),
        ([CAN_START, TRAINING, TRAINING, TRAINING], Capacity(64, 0, True), Capacity(24, 12, True)),
        ([node({"hpa-ray/data-cpus": "many"}, CPU=1.0)], Capacity(1, 0, False), Capacity(1, 0, False)),
    ],
)
def test_what_there_is_and_can_be_for_each_kind_of_work(
    nodes: list[dict[str, Any]], data: Capacity, training: Capacity
) -> None:
    assert capacity_of(nodes, "data") == data
    assert capacity_of(nodes, "training") == training


def on(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, Any]) -> None:
    for module in (placement, start):
        monkeypatch.setattr(module, "alive", lambda: list(nodes))


@pytest.mark.parametrize(
    ("nodes", "num_workers", "use_gpu", "refusal"),
    [
        ([node({}, CPU=4.0), node({}, CPU=4.0)], 7, None, None),
        ([node({}, CPU=4.0), node({}, CPU=4.0)], 8, None, "has 8 CPUs, and reading the data takes one of them"),
        ([node({}, CPU=4.0), node({}, CPU=4.0)], 2, True, "train.use_gpu=true, and the cluster has 0 GPUs"),
        ([HEAD, DATA, TRAINING], 8, None, None),  # the others read
        ([HEAD, DATA, TRAINING], 9, None, "has 8 CPUs for training: use fewer"),
        ([HEAD, DATA, TRAINING], 5, True, "has 4 GPUs"),
        ([CAN_START], 8, True, None),  # they will come
        ([CAN_START], 9, True, "has 8 GPUs"),
        ([HEAD, node({"ray-subcluster": "data"}), TRAINING], 2, None, "that are to read the data have no CPU"),
        ([node({}, CPU=4.0)], 3, None, "this machine has 2 CPUs"),
    ],
)
def test_more_workers_than_can_ever_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, Any]], num_workers: int, use_gpu: bool | None, refusal: str
) -> None:
    on(monkeypatch, *nodes)
    if refusal is None:
        start._check_fits(num_workers, use_gpu=use_gpu, cores=2)
    else:
        with pytest.raises(InputError, match=refusal):
            start._check_fits(num_workers, use_gpu=use_gpu, cores=2)


def test_a_selector_only_where_nodes_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, node({}, CPU=2.0))
    assert placement.selector("data") is placement.selector("training") is None
    assert placement.model_options() == {}
    assert placement.resources("training") == [{"CPU": 2.0}]
    on(monkeypatch, CAN_START, TRAINING)
    assert placement.selector("data") == {"ray-subcluster": "data"}
    assert placement.selector("training") == {"hpa-ray/role": "training"}
    assert placement.model_options()["label_selector"] == {"hpa-ray/role": "training", "ray-subcluster": "!data"}
    assert placement.resources("training") == [TRAINING["Resources"], {"CPU": 8.0, "GPU": 4.0}]
