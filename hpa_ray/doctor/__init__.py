"""What can be known before a start of whether a run will work here. Before: stream, storage, cluster. After: cli."""

from hpa_ray.doctor.examine import brief_requests, examine
from hpa_ray.doctor.findings import Finding, fail, ok, refused

__all__ = ["Finding", "brief_requests", "examine", "fail", "ok", "refused"]
