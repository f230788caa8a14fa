"""Rows of a manifest -> their part of the split, with near-duplicate groups and with images of further sources."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from hpa_ray.manifest.split import Parts, deal_extra, split_rows
from hpa_ray.manifest.tables import GroupTable

LEFT_OUT = -1


def assign_parts(
    image_ids: pa.Array,
    targets_NK: np.ndarray,
    parts: Parts,
    *,
    seed: int,
    source_N: np.ndarray | None = None,
    groups: GroupTable | None = None,
    extra: str = "all",
    train: int = 0,
) -> np.ndarray:
    """Part number of every row, (N,) int16; rows of a group share theirs.

    extra: "all" deals the images of every source out alike. "train" deals out those of the first source only; the
    others go into part `train`, or are LEFT_OUT if their group has an image in another part.
    """
    codes = None if groups is None else groups.codes_of(image_ids)
    if extra == "all" or source_N is None or not source_N.any():
        return split_rows(targets_NK, parts, keys=image_ids, seed=seed, groups=codes)
    first = source_N == 0
    numbers = np.full(len(image_ids), LEFT_OUT, np.int16)
    numbers[first] = split_rows(
        targets_NK[first],
        parts,
        keys=image_ids.filter(pa.array(first)),
        seed=seed,
        groups=None if codes is None else codes[first],
    )
    return deal_extra(numbers, codes, ~first, train)


def part_names(parts: Sequence[float | int], *, folds: bool) -> list[str]:
    """train, val (and test) for two or three parts, 0, 1, ... for folds."""
    if folds or len(parts) > 3:
        return [str(number) for number in range(len(parts))]
    return ["train", "val", "test"][: len(parts)]
