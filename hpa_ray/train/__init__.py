"""One training loop, three hosts: this process, Ray Train workers, and (by the same context) a Tune actor."""

from hpa_ray.train.launch import launch, on_hosts

__all__ = ["launch", "on_hosts"]
