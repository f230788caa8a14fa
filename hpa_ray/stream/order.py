"""Which sample comes when: pure functions of (seed, epoch) and of the numbers of samples, workers and steps.

The order does not depend on how many workers read it, and nothing has to be remembered to find it again.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hpa_ray.errors import InputError


@dataclass(frozen=True)
class EpochOrder:
    """A permutation of range(num_rows) for every epoch, made window by window.

    Chunks of consecutive rows (they lie together in a shard) are permuted over the whole epoch; then the rows of each
    window of chunks are shuffled. With chunk_rows=1, or a window that covers all, it is a full shuffle.
    """

    num_rows: int
    seed: int
    chunk_rows: int = 64
    window_chunks: int = 16

    def rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Rows at positions start to stop of an epoch, (stop - start,) int64."""
        chunks, bounds = _chunks(self.num_rows, self.seed, self.chunk_rows, epoch)
        firsts = bounds[:: self.window_chunks]  # position at which each window begins
        first, last = np.searchsorted(firsts, [start, max(start, stop - 1)], side="right") - 1
        picked = [self._window(epoch, int(window), chunks) for window in range(first, last + 1)]
        return np.concatenate(picked)[start - firsts[first] : stop - firsts[first]]

    def _window(self, epoch: int, window: int, chunks: np.ndarray) -> np.ndarray:
        starts = chunks[window * self.window_chunks : (window + 1) * self.window_chunks] * self.chunk_rows
        rows = (starts[:, None] + np.arange(self.chunk_rows)).ravel()
        rows = rows[rows < self.num_rows]  # the last chunk may be short
        return np.random.default_rng([self.seed, epoch, 1, window]).permutation(rows)


@lru_cache(maxsize=4)
def _chunks(num_rows: int, seed: int, chunk_rows: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The permuted chunks of an epoch and the position at which each begins."""
    num_chunks = -(-num_rows // chunk_rows)
    chunks = np.random.default_rng([seed, epoch, 0]).permutation(num_chunks)
    lengths = np.minimum(chunk_rows, num_rows - chunks * chunk_rows)
    return chunks, np.concatenate([[0], np.cumsum(lengths)[:-1]])


@dataclass(frozen=True)
class Steps:
    """How an epoch is cut into steps and each step among workers: every sample once, whatever does not divide.

    All workers take the same number of steps. Instead of dropping or padding a short last batch, step sizes differ by
    at most one sample, and so do the shares of the workers in a step; no share exceeds batch_size.
    """

    num_rows: int
    batch_size: int
    world_size: int
    first: int = 0
    """Samples of the epoch that were taken before, by another number of workers: what is left is cut anew."""

    def __post_init__(self) -> None:
        if self.num_rows < self.world_size:
            raise InputError(
                f"{self.num_rows} training images can not be shared by {self.world_size} workers: "
                "use fewer with train.num_workers"
            )

    @property
    def per_epoch(self) -> int:
        return -(-(self.num_rows - self.first) // (self.batch_size * self.world_size))

    def step(self, step: int) -> tuple[int, int]:
        """Positions (start, stop) in the epoch of all samples of a step."""
        return _part(step, self.per_epoch, self.first, self.num_rows)

    def samples_before(self, step: int) -> int:
        """Of the epoch, when so many steps are done."""
        return self.step(step - 1)[1] if step else self.first

    def num_groups(self, size: int) -> int:
        """Of at most `size` steps that make one step of the optimizer, per epoch."""
        return -(-self.per_epoch // size)

    def group(self, step: int, size: int) -> tuple[int, int, int]:
        """The group a step is in: its number, its first and its last step. Sizes differ by at most one step."""
        num_groups = self.num_groups(size)
        number = ((step + 1) * num_groups - 1) // self.per_epoch
        start, stop = _part(number, num_groups, 0, self.per_epoch)
        return number, start, stop - 1

    def share(self, step: int, rank: int) -> tuple[int, int]:
        """Positions (start, stop) of one worker's samples of a step."""
        return _part(rank, self.world_size, *self.step(step))


class Place(NamedTuple):
    """Where in a run the next training step is: so many epochs and steps are done."""

    epoch: int
    steps: Steps
    """How this epoch is cut; later ones are cut as a whole."""
    step: int = 0

    @property
    def samples_seen(self) -> int:
        """Of this epoch."""
        return self.steps.samples_before(self.step)


def _part(number: int, num_parts: int, start: int, stop: int) -> tuple[int, int]:
    length = stop - start
    return start + number * length // num_parts, start + (number + 1) * length // num_parts


def contiguous_share(num_rows: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """The rows (start, stop) of one worker where order does not matter; sizes differ by at most one, may be empty."""
    return _part(rank, world_size, 0, num_rows)


def sample_seeds(seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
    """A 63-bit seed for each position of an epoch, (stop - start,) int64: the source of its augmentation draws.

    A counter-based generator (SplitMix64, Steele et al. 2014), so a sample's draws depend on nothing but its place.
    """
    base = _mix(np.array([seed], np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(epoch))
    return (_mix(base + np.arange(start, stop, dtype=np.uint64)) >> np.uint64(1)).astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
