"""Batches -> tensors on the device, still uint8. Before: stream/feed. After: augment, model."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from hpa_ray.stream.schedule import Batch


class DeviceBatch(NamedTuple):
    batch: Batch
    images_BCSS: torch.Tensor  # uint8, on the device
    targets_BK: torch.Tensor  # float32
    seeds_B: torch.Tensor  # int64


def to_device(batches: Iterable[Batch], targets_NK: np.ndarray, device: torch.device) -> Iterator[DeviceBatch]:
    """Move batches to the device, one ahead of the one in use; targets are looked up by manifest row."""
    pin = device.type == "cuda"

    def move(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        staged = torch.empty(array.shape, dtype=dtype, pin_memory=pin)
        staged.numpy()[...] = array
        return staged.to(device, non_blocking=True)

    def tensors(batch: Batch) -> DeviceBatch:
        targets = targets_NK[batch.rows_B]
        return DeviceBatch(
            batch, move(batch.pixels_BCSS, torch.uint8), move(targets, torch.float32), move(batch.seeds_B, torch.int64)
        )

    if not pin:  # nothing to overlap with
        yield from map(tensors, batches)
        return
    ahead: DeviceBatch | None = None
    for batch in batches:
        current, ahead = ahead, tensors(batch)
        if current is not None:
            yield current
    if ahead is not None:
        yield ahead
