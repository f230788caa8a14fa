"""One real Ray cluster for all end-to-end tests, with the dashboard that takes jobs; it ends with the session."""

import os
from collections.abc import Iterator

import pytest
from loopback import free_port

from hpa_ray import cluster


@pytest.fixture(scope="session")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the cluster's dashboard; RAY_ADDRESS names the cluster while it runs."""
    for name, value in cluster.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.cluster_utils import Cluster

    port = free_port()
    head = {
        "num_cpus": 4,  # logical: more than the two cores, so that two workers and their readers find room
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": port,
        "object_store_memory": 512 * 2**20,
    }
    started = Cluster(initialize_head=True, head_node_args=head)
    os.environ["RAY_ADDRESS"] = started.address
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        del os.environ["RAY_ADDRESS"]
        ray.shutdown()
        started.shutdown()
