"""From a source of pixels to batches on the device: the order of samples as a value, one continuous stream."""

from hpa_ray.stream.data import Data, check_rejects, open_data, training_samples
from hpa_ray.stream.feed import local_feed, ray_blocks, ray_feed
from hpa_ray.stream.order import EpochOrder, Place, Steps, contiguous_share, sample_seeds
from hpa_ray.stream.sampling import Sampling
from hpa_ray.stream.schedule import Batch, Item, Schedule, Sweep

__all__ = [
    "Batch",
    "Data",
    "EpochOrder",
    "Item",
    "Place",
    "Sampling",
    "Schedule",
    "Steps",
    "Sweep",
    "check_rejects",
    "contiguous_share",
    "local_feed",
    "open_data",
    "ray_blocks",
    "ray_feed",
    "sample_seeds",
    "training_samples",
]
