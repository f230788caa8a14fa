"""Batches -> tensors on the device, still uint8. Before: stream/feed. After: augment, model."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from hpa_ray.stream.data import Data, Matching
from hpa_ray.stream.schedule import Batch


class DeviceBatch(NamedTuple):
    batch: Batch
    images_BCSS: torch.Tensor  # on the device: uint8, or with several sources float32 from 0 to 255
    targets_BK: torch.Tensor  # float32
    seeds_B: torch.Tensor  # int64


def to_device(batches: Iterable[Batch], data: Data, device: torch.device) -> Iterator[DeviceBatch]:
    """Move batches to the device, one ahead of the one in use; targets are looked up by manifest row."""
    pin = device.type == "cuda"
    match = SourceMatch(data.source_N, data.matching, device)

    def tensors(batch: Batch) -> DeviceBatch:
        images = match(move(batch.pixels_BCSS, torch.uint8, device), batch.rows_B)
        targets = move(data.targets_NK[batch.rows_B], torch.float32, device)
        return DeviceBatch(batch, images, targets, move(batch.seeds_B, torch.int64, device))

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


def move(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Onto the device without waiting for it: by way of pinned memory where it is a GPU."""
    staged = torch.empty(array.shape, dtype=dtype, pin_memory=device.type == "cuda")
    staged.numpy()[...] = array
    return staged.to(device, non_blocking=True)


class SourceMatch:
    """Bring images of every source to the intensities of the first one, by manifest row.

    External images are up to 45 % brighter than those of the competition; the model knows one mean and std.
    """

    def __init__(self, source_N: np.ndarray, matching: Matching | None, device: torch.device) -> None:
        self.source_N, self.matching = source_N, matching
        if matching is not None:
            self.gain_MC = torch.from_numpy(matching.gain_MC).to(device)
            self.offset_MC = torch.from_numpy(matching.offset_MC).to(device)

    def __call__(self, images_BCSS: torch.Tensor, rows_B: np.ndarray) -> torch.Tensor:
        """(B, C, S, S) uint8 -> float32 from 0 to 255, or as they are where there is one source."""
        if self.matching is None:
            return images_BCSS
        sources = move(self.source_N[rows_B], torch.int64, images_BCSS.device)
        gain, offset = self.gain_MC[sources][:, :, None, None], self.offset_MC[sources][:, :, None, None]
        return torch.addcmul(offset, images_BCSS.float(), gain).clamp_(0, 255)
