"""Labels -> a part (train / val / test, or a fold) for every image. Before: manifest. After: shards, train, evaluate.

Multi-label iterative stratification: Sechidis, Tsoumakas, Vlahavas, "On the stratification of multi-label data", ECML
PKDD 2011. The rarest class is dealt out first, each image to the part that still needs most of the class. Added to the
paper: groups that stay together, exact part sizes, and no part without a class that is frequent enough for all parts.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

import numpy as np

from hpa_ray.errors import InputError

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
    targets: np.ndarray, parts: Parts, *, keys: Sequence[str], seed: int, groups: np.ndarray | None = None
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
    by_key = sorted(range(num_rows), key=keys.__getitem__)
    for a, b in pairwise(by_key):
        if keys[a] == keys[b]:
            raise InputError(f"image id {keys[a]!r} occurs more than once: drop the repeated row")

    group_sorted = np.arange(num_rows) if groups is None else _by_first_row(np.asarray(groups)[by_key])
    # one more class, which every row has: the sizes and the unlabelled rows follow the same rule as the other classes
    classes_and_one = np.pad(np.asarray(targets, dtype=np.int32)[by_key], ((0, 0), (0, 1)), constant_values=1)
    count_GK = np.zeros((group_sorted.max() + 1, classes_and_one.shape[1]), dtype=np.int32)
    np.add.at(count_GK, group_sorted, classes_and_one)
    if len(count_GK) < num_parts:
        raise InputError(f"{num_parts} parts but only {len(count_GK)} groups of rows: use fewer parts or folds")

    part_N = np.empty(num_rows, dtype=np.int16)
    part_N[by_key] = _deal(count_GK, parts, sizes, np.random.default_rng(seed))[group_sorted]
    return part_N


def fold_rows(
    targets: np.ndarray, num_folds: int, *, keys: Sequence[str], seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """`split_rows` into num_folds equal parts -> (N,) int16 fold numbers."""
    if not 2 <= num_folds <= len(targets):
        raise InputError(f"{num_folds} folds of {len(targets)} rows: use 2 to {len(targets)} folds")
    return split_rows(targets, [1 / num_folds] * num_folds, keys=keys, seed=seed, groups=groups)


def classes_missing(targets: np.ndarray, assignment: np.ndarray, num_parts: int) -> dict[int, list[int]]:
    """Part -> classes that occur in the (N, K) targets but not in this part; parts that lack none are left out."""
    occurs_K = targets.any(axis=0)
    missing = {j: np.flatnonzero(occurs_K & ~targets[assignment == j].any(axis=0)).tolist() for j in range(num_parts)}
    return {j: classes for j, classes in missing.items() if classes}


def _deal(count_GK: np.ndarray, parts: Parts, sizes: list[int], rng: np.random.Generator) -> np.ndarray:
    """(G, K + 1) rows per group and class, the last column being the group's size -> (G,) part numbers.

    Plain lists and integers: a numpy call on a handful of parts costs more than the arithmetic, and integer needs
    compare exactly, so that a tie is a tie on every machine.
    """
    num_groups, num_parts = len(count_GK), len(sizes)
    order = rng.permutation(num_groups)
    order = order[np.argsort(-count_GK[order, -1], kind="stable")]  # big groups first, small ones fill the gaps

    # need[k][j]: rows of class k that part j still lacks for its share, as an integer in some unit.
    # From parts, not sizes: of equal folds, those a row longer by rounding would get the odd image of every class.
    weights = [round(part / sum(parts) * 10**9) for part in parts]
    need = [[weight * total for weight in weights] for total in count_GK.sum(axis=0).tolist()]
    room = list(sizes)
    groups_left = np.count_nonzero(count_GK, axis=0).tolist()
    parts_without = [set(range(num_parts)) if left >= num_parts else set() for left in groups_left]

    def best_part(rarest: int, classes: list[int], size: int) -> int:
        # as few groups of a class left as parts without it: from now on each must go to one of these
        urgent = [parts_without[k] for k in classes if groups_left[k] <= len(parts_without[k])]

        def merit(j: int) -> tuple[int, bool, int, int, float]:
            num_urgent = sum(j in without for without in urgent)
            return num_urgent, room[j] >= size, need[rarest][j], room[j], rng.random()

        return max((j for j in range(num_parts) if room[j] > 0), key=merit)

    part_G = np.full(num_groups, -1, dtype=np.int16)
    while any(groups_left):
        rarest = min((left, k) for k, left in enumerate(groups_left) if left)[1]
        for g in order[(count_GK[order, rarest] > 0) & (part_G[order] < 0)].tolist():
            counts = count_GK[g].tolist()
            classes = [k for k, count in enumerate(counts) if count]
            part_G[g] = part = best_part(rarest, classes, counts[-1])
            room[part] -= counts[-1]
            for k in classes:
                need[k][part] -= counts[k] * sum(weights)
                groups_left[k] -= 1
                parts_without[k].discard(part)
    return part_G


def _by_first_row(groups: np.ndarray) -> np.ndarray:
    """Group values -> 0, 1, ... in the order of their first rows."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


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
