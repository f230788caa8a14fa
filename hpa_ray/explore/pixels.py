"""A few images drawn at random -> samples to look at, and how bright the stains are. After: explore/image_page."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from hpa_ray.ingest.stack import resize_plane
from hpa_ray.schema import Reject, Source

# N images, K class, C stains, S side in px, L gray levels (256)

T = TypeVar("T")

CHUNK = 4
"""Images per read: small, so that threads end together and a bar moves."""
SAMPLE_PX = 256
"""Side of the samples shown; larger ones are made smaller."""


class PixelNumbers(NamedTuple):
    """Of each source, by its number: how many images were read, and their pixels by gray level."""

    num_images: dict[int, int]
    counts_CL: dict[int, np.ndarray]
    rejects: list[Reject]


def draw_samples(targets_NK: np.ndarray, samples_per_class: int, *, seed: int) -> dict[int | None, list[int]]:
    """Class -> manifest rows, drawn at random from the images that have it; fewer where there are fewer."""
    order = np.random.default_rng([seed, 1]).permutation(len(targets_NK))
    return {
        k: [int(row) for row in order[targets_NK[order, k] > 0][:samples_per_class]]
        for k in range(targets_NK.shape[1])
        if targets_NK[:, k].any()
    }


def draw_images(source_N: np.ndarray, num_images: int, *, seed: int) -> np.ndarray:
    """Manifest rows at random, as many of each source as of any other as far as there are so many."""
    order = np.random.default_rng([seed, 2]).permutation(len(source_N))
    turn_N = np.zeros(len(source_N), np.int64)  # how many of its source come before an image
    for number in np.unique(source_N):
        mine = order[source_N[order] == number]
        turn_N[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(turn_N[order], kind="stable")][:num_images])


def measure(
    source: Source, rows: np.ndarray, source_N: np.ndarray, *, on_progress: Callable[[int], None]
) -> PixelNumbers:
    """Read images and count their pixels by gray level."""
    numbers = PixelNumbers({}, {}, [])
    for row, counts_CL in _read(source, rows, _by_level, numbers.rejects, on_progress):
        number = int(source_N[row])
        numbers.num_images[number] = numbers.num_images.get(number, 0) + 1
        numbers.counts_CL[number] = numbers.counts_CL.get(number, 0) + counts_CL
    return numbers


def read_samples(
    source: Source, rows: np.ndarray, *, on_progress: Callable[[int], None]
) -> tuple[dict[int, np.ndarray], list[Reject]]:
    """Manifest row -> (C, S, S) uint8 of at most SAMPLE_PX; an image that can not be used is a reject."""
    rejects: list[Reject] = []
    return dict(_read(source, rows, _small, rejects, on_progress)), rejects


def _by_level(image_CSS: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(plane.ravel(), minlength=256) for plane in image_CSS])


def _small(image_CSS: np.ndarray) -> np.ndarray:
    if image_CSS.shape[-1] <= SAMPLE_PX:
        return image_CSS.copy()  # not a view into the pixels of its whole chunk
    return np.stack([resize_plane(plane, SAMPLE_PX) for plane in image_CSS])


def _read(
    source: Source,
    rows: np.ndarray,
    reduce: Callable[[np.ndarray], T],
    rejects: list[Reject],
    on_progress: Callable[[int], None],
) -> Iterator[tuple[int, T]]:
    """Manifest row and what `reduce` makes of its image, in order; only that is kept in memory."""

    def work(chunk: np.ndarray) -> tuple[list[tuple[int, T]], list[Reject]]:
        images = source.read(chunk)
        return [
            (int(row), reduce(image)) for row, image in zip(images.rows_B, images.pixels_BCSS, strict=True)
        ], images.rejects

    done = 0
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk, (results, bad) in zip(chunks, pool.map(work, chunks), strict=True):
            yield from results
            rejects += bad
            done += len(chunk)
            on_progress(done)
