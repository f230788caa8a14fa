"""A look at a user's data before anything is done with it. Before: manifest, ingest. After: the user, who mends it."""

from hpa_ray.check.look import check_source
from hpa_ray.check.report import Report

__all__ = ["Report", "check_source"]
