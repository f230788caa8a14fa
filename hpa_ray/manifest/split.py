"""Labels -> a part (train / val / test, or a fold) for every image. Before: manifest. After: shards, train, evaluate.

What a split promises: the same class shares in every part, exact sizes, groups that stay together, and no part without
a class that is frequent enough for all parts. The method is in `stratify`.
"""

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import pyarrow as pa

from hpa_ray.errors import InputError
from hpa_ray.manifest.keys import hash_order
from hpa_ray.manifest.stratify import SHARE_UNIT, Units, deal, units_of

Parts = Sequence[float | int]


def parse_parts(text: str) -> list[float] | list[int]:
    """Counts of "24000/3000/4072", shares of "0.8/0.1/0.1", five equal shares of "5 folds". Raises InputError."""
    words = text.split()
    if len(words) == 2 and words[1] in ("fold", "folds") and words[0].isascii() and words[0].isdigit():
        if len(words[0]) > 4:
            raise InputError(f"split.parts = {text[:60]!r} - write at most 9999 folds")
        if int(words[0]) < 2:
            raise InputError(f"split.parts = {text!r} - one fold holds everything: write 2 folds or more")
        return [1 / int(words[0])] * int(words[0])
    pieces = [piece.strip() for piece in text.split("/")]
    try:
        parts: list[float] | list[int]
        if all(piece.isascii() and piece.isdigit() for piece in pieces):
            parts = [int(piece) for piece in pieces]
        else:
            parts = [float(piece) for piece in pieces]
    except ValueError:
        raise InputError(
            f"split.parts = {text!r} - write counts (24000/3000/4072), shares (0.8/0.1/0.1) or folds (5 folds)"
        ) from None
    _check_parts(parts)
    return parts


def part_sizes(parts: Parts, num_rows: int) -> list[int]:
    """Rows of each part, adding up to num_rows: counts as they are, shares by largest remainder. Raises InputError."""
    _check_parts(parts)
    total = sum(parts)
    if _are_counts(parts):
        if total != num_rows:
            shares = "/".join(f"{part / total:.3g}" for part in parts)
            rest = num_rows - total + parts[-1]
            counts = "/".join(str(part) for part in [*parts[:-1], rest])
            raise InputError(
                f"split.parts = {_text(parts)} adds up to {total} rows, the table has {num_rows}:"
                f" write {f'{counts} or ' if rest > 0 else ''}{shares}"
            )
        return [int(part) for part in parts]
    quotas = [part / total * num_rows for part in parts]
    sizes = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(parts)), key=lambda j: sizes[j] - quotas[j])
    for j in by_remainder[: num_rows - sum(sizes)]:
        sizes[j] += 1
    if 0 in sizes:
        raise InputError(
            f"split.parts = {_text(parts)} of {num_rows} rows leaves part {sizes.index(0)} without a row:"
            f" use at most {num_rows} parts and shares of at least {1 / num_rows:.2g}"
        )
    return sizes


def split_rows(
    targets: np.ndarray,
    parts: Parts,
    *,
    keys: pa.Array | pa.ChunkedArray | Sequence[str],
    seed: int,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Deal (N, K) uint8 multi-hot targets out to parts with the same class shares -> (N,) int16 part numbers.

    parts: all shares (sum 1) or all counts (sum N). Sizes are exact while every group is a single row; otherwise near,
    as the groups allow, and never 0.
    keys: the N image ids. The part of an image depends on the set of rows and the seed, not on the order of the rows.
    groups: (N,) any values; rows with the same value stay together. Only who is with whom matters, not the values.

    A class with at least as many groups as parts comes into every part, unless other such classes on the same images or
    the sizes forbid it: `classes_missing` tells. Raises InputError for parts that do not fit the table and for repeated
    keys, ValueError for shapes that do not match.
    """
    num_rows, num_parts = len(targets), len(parts)
    if targets.ndim != 2 or len(keys) != num_rows or (groups is not None and np.shape(groups) != (num_rows,)):
        raise ValueError(
            f"targets {targets.shape}, {len(keys)} keys, groups {np.shape(groups) if groups is not None else None}:"
            " pass (N, K) targets and one key and group a row"
        )
    sizes = part_sizes(parts, num_rows)
    weights = [round(part / sum(parts) * SHARE_UNIT) for part in parts]
    rng = np.random.default_rng(seed)
    by_key = _order_of_keys(keys)
    part_N = np.empty(num_rows, dtype=np.int16)
    if groups is None:
        set_N, count_SC = units_of(targets, None)
        part_N[by_key] = deal(Units(set_N[by_key], count_SC), weights, sizes, rng)
        return part_N

    group_N = np.empty(num_rows, dtype=np.int32)
    group_N[by_key] = _codes(np.asarray(groups)[by_key])  # in the order of the first key of each group
    num_groups = int(group_N.max()) + 1
    if num_groups < num_parts:
        raise InputError(f"{num_parts} parts but only {num_groups} groups of rows: use fewer parts or folds")
    return deal(units_of(targets, group_N), weights, sizes, rng)[group_N]


def fold_rows(
    targets: np.ndarray,
    num_folds: int,
    *,
    keys: pa.Array | pa.ChunkedArray | Sequence[str],
    seed: int,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """`split_rows` into num_folds equal parts -> (N,) int16 fold numbers."""
    if not 2 <= num_folds <= len(targets):
        raise InputError(f"{num_folds} folds of {len(targets)} rows: use 2 to {len(targets)} folds")
    return split_rows(targets, [1 / num_folds] * num_folds, keys=keys, seed=seed, groups=groups)


def deal_extra(parts_N: np.ndarray, groups: np.ndarray | None, is_extra: np.ndarray, train: int) -> np.ndarray:
    """Rows of extra sources join the part `train` alone -> (N,) int16 part numbers, -1 for rows that are left out.

    parts_N: (N,) part numbers of the main rows (-1: in no part); those of extra rows are not looked at.
    groups: (N,) any values, as for `split_rows`. An extra row whose group has a main row in another part is left out:
    the model would be scored on what it was trained on.
    is_extra: (N,) bool. Raises ValueError for shapes that do not match.
    """
    shapes = [np.shape(parts_N), np.shape(is_extra), np.shape(parts_N if groups is None else groups)]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        raise ValueError(f"part numbers, extra rows and groups of shapes {shapes}: pass one of each a row")
    extra_N = np.asarray(is_extra, dtype=bool)
    dealt_N = np.where(extra_N, train, parts_N).astype(np.int16)
    if groups is not None and len(dealt_N):
        group_N = _codes(groups)
        taken = np.zeros(int(group_N.max()) + 1, dtype=bool)
        taken[group_N[(dealt_N != train) & (dealt_N >= 0)]] = True
        dealt_N[extra_N & taken[group_N]] = -1
    return dealt_N


def classes_missing(targets: np.ndarray, assignment: np.ndarray, num_parts: int) -> dict[int, list[int]]:
    """Part -> classes that occur in the (N, K) targets but not in this part; parts that lack none are left out."""
    occurs_K = targets.any(axis=0)
    missing = {j: np.flatnonzero(occurs_K & ~targets[assignment == j].any(axis=0)).tolist() for j in range(num_parts)}
    return {j: classes for j, classes in missing.items() if classes}


def _order_of_keys(keys: pa.Array | pa.ChunkedArray | Sequence[str]) -> np.ndarray:
    """(N,) rows in an order that only the keys decide. Raises InputError if a key occurs more than once."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    ids = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
    order, again_N = hash_order(ids)
    if again_N.any():
        twice = ids[int(order[again_N].min())].as_py()
        raise InputError(f"image id {twice!r} occurs more than once: drop the repeated row")
    return order


def _codes(values: np.ndarray) -> np.ndarray:
    """Values -> (N,) int32 numbers 0, 1, ... in the order of their first rows."""
    codes: np.ndarray = pa.array(values).dictionary_encode().indices.to_numpy()
    return codes


def _are_counts(parts: Parts) -> bool:
    return all(isinstance(part, Integral) for part in parts)


def _check_parts(parts: Parts) -> None:
    if len(parts) < 2:
        raise InputError(f"split.parts = {_text(parts)} is one part: write two or more, such as 0.9/0.1")
    if not all(math.isfinite(part) and part > 0 for part in parts):
        raise InputError(f"split.parts = {_text(parts)} - every part must be greater than 0: leave the others out")
    if not _are_counts(parts) and abs(sum(parts) - 1) > 1e-6:
        total = sum(parts)
        shares = "/".join(f"{part / total:.3g}" for part in parts)
        raise InputError(f"split.parts = {_text(parts)} adds up to {total:g}, shares must add up to 1: write {shares}")


def _text(parts: Parts) -> str:
    if len(parts) > 2 and len(set(parts)) == 1 and not _are_counts(parts):
        return f"{len(parts)} folds"
    return "/".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
