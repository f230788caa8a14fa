"""All a worker will read in a run, as one sequence of batches. Before: stream/order. After: stream/feed.

Training steps and validation batches of all epochs stand in one sequence, so that one reader, started once, serves the
run: restarting a Ray Data execution costs 0.8 s warm and 8 to 40 s cold.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from hpa_ray.schema import Reject
from hpa_ray.stream.order import EpochOrder, Place, Steps, contiguous_share, sample_seeds
from hpa_ray.stream.sampling import Sampling


class Item(NamedTuple):
    """What to read for one batch of one worker."""

    kind: Literal["train", "val"]
    epoch: int
    step: int
    rows_B: np.ndarray  # manifest rows, int64
    seeds_B: np.ndarray  # int64
    step_size: int  # samples of this step over all workers


class Batch(NamedTuple):
    """What was read; rejected rows are left out of rows, pixels and seeds."""

    kind: Literal["train", "val"]
    epoch: int
    step: int
    rows_B: np.ndarray
    seeds_B: np.ndarray
    step_size: int
    pixels_BCSS: np.ndarray  # uint8
    rejects: list[Reject]


class Items(Protocol):
    """A sequence of items, each worked out when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Item: ...


@dataclass(frozen=True)
class Sweep:
    """Every given row once, in order: validation, evaluation, prediction."""

    rows: np.ndarray  # manifest rows
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, number: int) -> Item:
        rows = self.rows[number * self.batch_size : (number + 1) * self.batch_size]
        return Item("val", 0, number, rows, np.zeros(len(rows), np.int64), len(rows))


@dataclass(frozen=True)
class Schedule:
    """The items of one worker from the first step it has not seen to the end of the last epoch."""

    train_rows: np.ndarray  # manifest rows of the training part, in stored order
    val_rows: np.ndarray
    sampling: Sampling
    order: EpochOrder  # of the samples
    steps: Steps  # of a whole epoch
    rank: int
    start: Place
    num_epochs: int

    @property
    def items_per_epoch(self) -> int:
        """Of a whole epoch."""
        return self.steps.per_epoch + len(self.validation)

    @property
    def _items_of_first_epoch(self) -> int:
        return self.start.steps.per_epoch - self.start.step + len(self.validation)

    @property
    def validation(self) -> Sweep:
        """This worker's share of the validation part."""
        start, stop = contiguous_share(len(self.val_rows), rank=self.rank, world_size=self.steps.world_size)
        return Sweep(self.val_rows[start:stop], self.steps.batch_size)

    def __len__(self) -> int:
        return self._items_of_first_epoch + (self.num_epochs - self.start.epoch - 1) * self.items_per_epoch

    def __getitem__(self, number: int) -> Item:
        if number < self._items_of_first_epoch:
            epoch, step, steps = self.start.epoch, self.start.step + number, self.start.steps
        else:
            epoch, step = divmod(number - self._items_of_first_epoch, self.items_per_epoch)
            epoch, steps = epoch + self.start.epoch + 1, self.steps
        if step >= steps.per_epoch:
            return self.validation[step - steps.per_epoch]._replace(epoch=epoch)
        start, stop = steps.share(step, self.rank)
        places = self.order.rows(epoch, start, stop)
        rows = self.train_rows[self.sampling.positions(epoch, places)]
        first, last = steps.step(step)
        return Item("train", epoch, step, rows, sample_seeds(self.order.seed, epoch, start, stop), last - first)
