"""How often a training image comes in an epoch. Before: manifest. After: stream/order, which shuffles the places.

A pure function of (seed, epoch), like the order: nothing has to be remembered to find an epoch's list again.
"""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from hpa_ray.config import SamplingConfig

# N images, K classes; Y bytes of 8 classes, V values of a byte, X bits

BITS_VX = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
UNIT_BITS = 32
"""Copies are counted in units of 2^-32, so that sums over 10 million rows are exact in int64."""
UNIT = 1 << UNIT_BITS


def expected_copies(cfg: SamplingConfig, targets_NK: np.ndarray) -> np.ndarray | None:
    """Times an image comes in an epoch on average, (N,) float64, for multi-hot uint8 targets; None: once each.

    repeat_factor: max over the image's classes of sqrt(threshold / share), at least 1, at most clip (Gupta et al.,
    "LVIS", CVPR 2019); 1 without a class.
    class_balanced: max over the image's classes of 1 / share, at most clip times the smallest (which images without a
    class get), scaled to a sum of N. The largest factor decides in both, as in an image of a common and a rare class it
    is the rare one that is short.
    """
    if cfg.name == "none":
        return None
    packed_NY = np.packbits(targets_NK, axis=1)
    num_bytes = packed_NY.shape[1]
    counts_YX = [np.bincount(packed_NY[:, byte], minlength=256) @ BITS_VX for byte in range(num_bytes)]
    counts_K = np.concatenate(counts_YX)[: targets_NK.shape[1]]
    present = counts_K > 0
    if not present.any():
        return np.ones(len(targets_NK))
    share_K = np.where(present, counts_K, 1) / len(targets_NK)

    if cfg.name == "repeat_factor":
        repeats_K = np.clip(np.sqrt(cfg.threshold / share_K), 1, cfg.clip)
        return np.asarray(np.maximum(_largest(repeats_K, packed_NY), 1))
    copies_N = _largest(1 / share_K, packed_NY)
    smallest = copies_N[copies_N > 0].min()
    copies_N = np.clip(copies_N, smallest, cfg.clip * smallest)
    return np.asarray(copies_N * (len(copies_N) / copies_N.sum()))


def _largest(factor_K: np.ndarray, packed_NY: np.ndarray) -> np.ndarray:
    """The largest factor among the classes of each image, (N,) float64; 0 without a class."""
    num_bytes = packed_NY.shape[1]
    factor_YX = np.pad(factor_K, (0, 8 * num_bytes - len(factor_K))).reshape(num_bytes, 8)
    largest_N = np.zeros(len(packed_NY))
    for byte in range(num_bytes):
        largest_V = (BITS_VX * factor_YX[byte]).max(axis=1)
        np.maximum(largest_N, largest_V[packed_NY[:, byte]], out=largest_N)
    return largest_N


@dataclass(frozen=True)
class Sampling:
    """Which of the N training rows an epoch shows, with repeats; goes to every worker.

    Every row comes floor or ceil of its expected number of times, all epochs have one length, and the mean over the
    epochs is what was expected (where the sum is not a whole number: but for half an image per epoch, over all rows).
    Objects of the same content are equal, so those that reach a process one by one share what was worked out.
    """

    num_rows: int
    seed: int
    copies_N: np.ndarray | None = field(repr=False, compare=False)  # float64; None: every row once
    num_samples: int = field(init=False)
    """Places in an epoch: the rounded sum of the copies."""
    digest: bytes = field(init=False, repr=False)
    """Stands for copies_N in comparisons."""

    def __post_init__(self) -> None:
        num_samples, digest = self.num_rows, b""
        if self.copies_N is not None:
            assert self.copies_N.shape == (self.num_rows,)
            num_samples = round(int(_units(self.copies_N).sum()) / UNIT)
            digest = hashlib.blake2b(np.ascontiguousarray(self.copies_N, np.float64).data, digest_size=16).digest()
        object.__setattr__(self, "num_samples", num_samples)
        object.__setattr__(self, "digest", digest)

    def positions(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """Positions among the training rows of places 0 to num_samples - 1 in an epoch's list, (n,) int64.

        The list holds every row that comes, ascending, then those that come twice or more, three times or more, and so
        on: chunks of it read few parts of the files, and copies of a row lie in chunks that the order permutes.
        """
        if self.copies_N is None:
            return np.asarray(places, np.int64)
        return np.asarray(_epoch_list(self, epoch)[places], np.int64)


@lru_cache(maxsize=2)  # a reader that is ahead works on two epochs at a time
def _epoch_list(sampling: Sampling, epoch: int) -> np.ndarray:
    """The row at every place of an epoch, (num_samples,) of the smallest integers that hold it."""
    assert sampling.copies_N is not None
    copies_N = _draw(_units(sampling.copies_N), sampling.num_samples, np.random.default_rng([sampling.seed, epoch, 3]))
    parts, rows = [], np.flatnonzero(copies_N).astype(np.min_scalar_type(sampling.num_rows))
    times = 1
    while len(rows):
        parts.append(rows)
        times += 1
        rows = rows[copies_N[rows] >= times]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _units(copies_N: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(copies_N * UNIT), np.int64)


def _draw(units_N: np.ndarray, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Whole copies by systematic sampling: (N,) integers with the sum num_samples.

    The rows' fractions are laid end to end, and marks at a distance of 1 are put over them from a random offset; a row
    under a mark gets one copy more. The rows are laid in an order drawn anew: in a fixed one the same rows would always
    come together, and neighbours hardly ever. Where the fractions do not add up to a whole number, one offset would put
    one mark more than another; it is drawn from those that make the length right.
    """
    whole_N, part_N = units_N >> UNIT_BITS, units_N & (UNIT - 1)
    rows = np.flatnonzero(part_N)
    num_marks = num_samples - int(whole_N.sum())
    over = int(part_N.sum()) - (num_marks - 1) * UNIT  # offsets below this put num_marks marks or more
    offset = int(rng.integers(max(0, over - UNIT), min(UNIT, over)))
    rows = rng.permutation(rows)
    ends = np.cumsum(part_N[rows])
    marks = (ends - offset + (UNIT - 1)) >> UNIT_BITS  # that lie before each end
    whole_N[rows] += np.diff(marks, prepend=0)
    return whole_N
