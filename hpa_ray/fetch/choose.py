"""Label table -> the images to download and what they add to each class. Before: manifest. After: fetch/download."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_NAMES, CLASS_TABLE, NUM_CLASSES, parse_labels
from hpa_ray.manifest import LabelTable, multi_hot_column

RARE_BELOW = 400
"""Images in the competition's 31,072 below which a class is `rare`."""


class Choice(NamedTuple):
    """N images in the order in which they are downloaded."""

    image_ids: list[str]
    targets: np.ndarray  # (N, 28) uint8


class Gain(NamedTuple):
    """What the images add to one class."""

    number: int
    name: str
    competition: int
    gained: int


def rare_classes() -> tuple[int, ...]:
    return tuple(k for k, (_, num_images) in enumerate(CLASS_TABLE) if num_images < RARE_BELOW)


def parse_classes(words: Sequence[str]) -> tuple[int, ...]:
    """Class numbers, ascending, of words that are numbers, `rare` or `all`. Raises InputError."""
    if not words:
        raise InputError("fetch.classes is empty - give class numbers such as 8,9,27, or rare, or all")
    classes: set[int] = set()
    problems = []
    for word in words:
        if word in ("rare", "all"):
            classes |= set(rare_classes() if word == "rare" else range(NUM_CLASSES))
            continue
        try:
            classes |= set(parse_labels(word))
        except ValueError as error:
            problems.append(f"fetch.classes: {error} - give class numbers such as 8,9,27, or rare, or all")
    if problems:
        raise InputError(*problems)
    return tuple(sorted(classes))


def choose(labels: LabelTable, classes: Sequence[int], limit: int | None) -> Choice:
    """The images with at least one of the classes, those first that have the rarest class of the table, then by Id.

    The same table gives the same images in the same order, whatever the order of its rows. Raises InputError if there
    is none.
    """
    targets = multi_hot_column(labels.labels)
    rank = np.empty(NUM_CLASSES, np.int64)  # 0: the class with the fewest images in the table
    rank[np.argsort(targets.sum(axis=0), kind="stable")] = np.arange(NUM_CLASSES)
    rarest = np.where(targets == 1, rank, NUM_CLASSES).min(axis=1)
    ids = np.array(labels.image_ids.to_pylist(), dtype=np.str_)
    order = np.lexsort((ids, rarest))
    picked = order[targets[order][:, list(classes)].any(axis=1)][:limit]
    if not len(picked):
        named = ", ".join(f"{k} {CLASS_NAMES[k]}" for k in classes)
        raise InputError(f"fetch.labels: no image in it has a class of fetch.classes ({named}) - choose other classes")
    return Choice(ids[picked].tolist(), targets[picked])


def class_gains(targets: np.ndarray) -> list[Gain]:
    """For each class of which there is an image: what the competition has, and what the images add."""
    counts = targets.sum(axis=0, dtype=np.int64).tolist()
    return [Gain(k, *CLASS_TABLE[k], count) for k, count in enumerate(counts) if count]
