"""Ray: finding, starting and joining a cluster, and what its tasks get from the process that starts them."""

from hpa_ray.cluster.data import data_context, share, shared
from hpa_ray.cluster.placement import capacity, model_options, resources, selector
from hpa_ray.cluster.start import DATA_CPUS, ENVIRONMENT, available_cpus, has_gpus, num_gpus, start_ray

__all__ = [
    "DATA_CPUS",
    "ENVIRONMENT",
    "available_cpus",
    "capacity",
    "data_context",
    "has_gpus",
    "model_options",
    "num_gpus",
    "resources",
    "selector",
    "share",
    "shared",
    "start_ray",
]
