"""Image files -> decoded, stacked, resized pixels: as a source for training, or written as shards."""

from hpa_ray.ingest.opened import OpenedSource, open_source
from hpa_ray.ingest.prepare import prepare
from hpa_ray.ingest.reader import ImageSource

__all__ = ["ImageSource", "OpenedSource", "open_source", "prepare"]
