"""Units that stay together -> parts with the same class shares: the dealing behind `split_rows`. After: manifest/split.

Multi-label iterative stratification: Sechidis, Tsoumakas, Vlahavas, "On the stratification of multi-label data", ECML
PKDD 2011: the rarest class is dealt out first, each image to the part that still needs most of the class. Here only the
remainder is dealt so. Units with the same labels are interchangeable and there are few label sets (577 in the 31,072
images of the 2018 competition), so each part first gets its share of every set, in whole units. That takes seconds at
ten million rows, and it keeps label sets apart as well as classes (Szymanski, Kajdanowicz, "A network perspective on
stratification of multi-label data", 2017): their counts are off by 4 to 7 % where one at a time left 16 to 20 %.
Added to the paper: groups, exact sizes, and no part without a class that is frequent enough for all parts.
"""

# N row, G unit (a group of rows), T type of unit (the same class counts), C class, the last being "any row", P part

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

SHARE_UNIT = 10**9
"""Shares are whole numbers of this unit, so that needs are integers: a tie is a tie on every machine."""
HELD_BACK = 8
"""Units of a single-label type that each part gets last, one by one: they mend what the rare sets left uneven. With
none of them, or with 32, mean errors are 3 % greater."""


class Units(NamedTuple):
    """What is dealt out. Types come in descending size, then in an order that only their class counts decide."""

    type_G: np.ndarray  # integers
    count_TC: np.ndarray  # (T, C) int32, rows of each class in a unit; the last column is its size


def units_of(targets_NK: np.ndarray, group_N: np.ndarray | None) -> Units:
    """(N, K) multi-hot targets and (N,) group numbers 0, 1, ... without gaps (None: each row by itself) -> units.

    Takes 40 bytes a row on top of the arguments; the targets are not copied.
    """
    set_N, set_SC = _label_sets(targets_NK)
    if group_N is None:
        return Units(set_N, set_SC)
    # a sum of random numbers per class stands for the counts: equal for others with a chance of 2**-64
    weight_C = np.random.default_rng(0).integers(2**63, size=set_SC.shape[1], dtype=np.uint64)
    sign_G = np.zeros(int(group_N.max()) + 1, dtype=np.uint64)
    np.add.at(sign_G, group_N, (set_SC * weight_C).sum(axis=1, dtype=np.uint64)[set_N])
    size_G = np.bincount(group_N)
    type_G, first_T = _numbered(sign_G)
    order_T = np.lexsort((sign_G[first_T], -size_G[first_T]))
    rank_T = np.empty_like(order_T)
    rank_T[order_T] = np.arange(len(order_T))
    type_G, first_T = rank_T[type_G], first_T[order_T]

    of_type_G = np.full(len(sign_G), -1)  # one unit of each type is counted
    of_type_G[first_T] = np.arange(len(first_T))
    of_type_N = of_type_G[group_N]
    counted = of_type_N >= 0
    type_M, set_M = of_type_N[counted], set_N[counted]
    count_TC = np.empty((len(first_T), set_SC.shape[1]), dtype=np.int32)
    for c in range(count_TC.shape[1]):
        count_TC[:, c] = np.bincount(type_M, weights=set_SC[set_M, c], minlength=len(first_T))
    return Units(type_G, count_TC)


def deal(units: Units, weights: Sequence[int], sizes: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Units -> (G,) int16 part numbers. weights: share of each part in any unit; sizes: rows, adding up to those dealt.

    Big units go first and small ones fill the gaps, so sizes are exact when the smallest are single rows and enough.
    """
    type_G, count_TC = units
    num_T = np.bincount(type_G, minlength=len(count_TC))
    shuffled = rng.permutation(len(type_G))
    types = type_G[shuffled].astype(np.uint16 if len(num_T) < 2**16 else np.int64)  # 16 bits sort ten times faster
    places = np.argsort(types, kind="stable")  # in the shuffled order; those of a type beside each other, ascending
    del types
    first_place_T = np.concatenate([[0], np.cumsum(num_T)])
    part_G = np.empty(len(type_G), dtype=np.int16)
    table = _Table(count_TC, num_T, weights, sizes)
    starts = np.flatnonzero(np.diff(count_TC[:, -1], prepend=-1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(count_TC)], strict=True):
        bulk_TP = table.deal_bulk(count_TC[start:stop], num_T[start:stop])
        rest_T = num_T[start:stop] - bulk_TP.sum(axis=1)
        choices = np.tile(np.array([*range(len(sizes)), -1], dtype=np.int16), stop - start)
        dealt = np.repeat(choices, np.column_stack([bulk_TP, rest_T]).ravel())
        here = places[first_place_T[start] : first_place_T[stop]]
        part_G[shuffled[here]] = dealt
        # The rest keep their place in the shuffled order, where those of common types come late and even out what the
        # rare ones left. In an order of their own mean errors are 40 % greater, by label count or frequency 5 to 80 %.
        rest = shuffled[np.sort(here[dealt < 0])]
        part_G[rest] = table.deal_singly(count_TC, type_G[rest], rng)
    return part_G


class _Table:
    """Where the dealing stands: what each part got and still wants of the units up to the size that is being dealt."""

    def __init__(self, count_TC: np.ndarray, num_T: np.ndarray, weights: Sequence[int], sizes: Sequence[int]) -> None:
        self.weights = np.array(weights, dtype=np.int64)
        self.room_P = np.array(sizes, dtype=np.int64)  # rows; below 0 where a unit was too big
        self.units_left_C = num_T @ (count_TC > 0)
        self.total_C = np.zeros(count_TC.shape[1], dtype=np.int64)  # rows, up to the size that is being dealt
        self.given_CP = np.zeros((count_TC.shape[1], len(sizes)), dtype=np.int64)
        # parts that have nothing yet of a class with enough units for all
        self.lacks_CP = np.repeat(self.units_left_C[:, None] >= len(sizes), len(sizes), axis=1)

    def need_CP(self) -> np.ndarray:
        """Rows that each part lacks for its share, times the sum of the weights."""
        # from weights, not sizes: of equal folds, those a row longer by rounding would get the odd image of every class
        need_CP: np.ndarray = self.total_C[:, None] * self.weights - self.given_CP * self.weights.sum()
        return need_CP

    def deal_bulk(self, count_TC: np.ndarray, num_T: np.ndarray) -> np.ndarray:
        """Units of one size -> (T, P) how many each part gets; the others are left to `deal_singly`.

        No class in no part gets more than its need: the share is that of the class that needs least.
        """
        rows_C = num_T @ count_TC
        self.total_C += rows_C
        has_TC = count_TC > 0
        share_CP = np.maximum(self.need_CP(), 0) / (np.maximum(rows_C, 1) * self.weights.sum())[:, None]
        share_TP = np.stack([np.where(has_TC, share_C, 1).min(axis=1) for share_C in share_CP.T], axis=1)
        bulk_TP: np.ndarray = np.floor(num_T[:, None] * share_TP + 1e-9).astype(np.int64)
        one_label_T = has_TC.sum(axis=1) <= 2
        bulk_TP[one_label_T] -= np.minimum(bulk_TP[one_label_T] // 2, HELD_BACK)
        # a type goes to every part that still lacks a class of it, or to none: who gets the last ones is settled singly
        lacks_TP = has_TC.astype(np.float32) @ self.lacks_CP.astype(np.float32) > 0
        bulk_TP[(lacks_TP & (bulk_TP == 0)).any(axis=1) | (bulk_TP.sum(axis=1) > num_T)] = 0

        self.given_CP += count_TC.T.astype(np.int64) @ bulk_TP
        self.room_P -= count_TC[:, -1] @ bulk_TP
        self.units_left_C -= bulk_TP.sum(axis=1) @ has_TC
        self.lacks_CP &= has_TC.T.astype(np.int64) @ bulk_TP == 0
        return bulk_TP

    def deal_singly(self, count_TC: np.ndarray, type_R: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Types of the units that are left, in their order -> (R,) part numbers by the rule of the paper.

        Plain lists and integers: a numpy call on a handful of parts costs more than the arithmetic.
        """
        by_rarity = np.argsort(self.total_C, kind="stable")
        kinds, kind_R = np.unique(type_R, return_inverse=True)
        rarest_first = (count_TC[kinds][:, by_rarity] > 0).argmax(axis=1)
        order = np.argsort(rarest_first[kind_R], kind="stable")
        rarest_of = by_rarity[rarest_first].tolist()
        counts_of = [[(c, n) for c, n in enumerate(counts) if n] for counts in count_TC[kinds].tolist()]

        unit = int(self.weights.sum())
        need, room, total = self.need_CP().tolist(), self.room_P.tolist(), self.total_C.tolist()
        units_left = self.units_left_C.tolist()
        parts_without = [set(np.flatnonzero(lacks_P).tolist()) for lacks_P in self.lacks_CP]
        lacking = {c for c, without in enumerate(parts_without) if without}

        def best_part(rarest: int, counts: list[tuple[int, int]]) -> int:
            parts = [j for j, rows in enumerate(room) if rows > 0]
            if lacking:
                # as few units of a class left as parts without it: from now on each must go to one of these
                urgent = [parts_without[c] for c, _ in counts if units_left[c] <= len(parts_without[c])]
                num_urgent = [sum(j in without for without in urgent) for j in parts]
                parts = [j for j, num in zip(parts, num_urgent, strict=True) if num == max(num_urgent)]
            size, wanted = counts[-1][1], need[rarest]
            parts = [j for j in parts if room[j] >= size] or parts
            most = max([wanted[j] for j in parts])
            parts = [j for j in parts if wanted[j] == most]
            if len(parts) > 1:
                others = [(sum([need[c][j] / total[c] for c, _ in counts]), room[j]) for j in parts]
                parts = [j for j, other in zip(parts, others, strict=True) if other == max(others)]
            return parts[0] if len(parts) == 1 else parts[rng.integers(len(parts))]

        part_R = np.empty(len(type_R), dtype=np.int16)
        kinds_ordered = kind_R[order].tolist()
        for row, kind in zip(order.tolist(), kinds_ordered, strict=True):
            counts = counts_of[kind]
            part_R[row] = part = best_part(rarest_of[kind], counts)
            room[part] -= counts[-1][1]
            for c, n in counts:
                need[c][part] -= n * unit
                units_left[c] -= 1
                if c in lacking:
                    parts_without[c].discard(part)
                    if not parts_without[c]:
                        lacking.remove(c)

        for c, n in enumerate(need):
            self.given_CP[c] = (self.total_C[c] * self.weights - np.array(n)) // unit
        self.room_P, self.units_left_C = np.array(room), np.array(units_left)
        self.lacks_CP = np.array([[j in without for j in range(len(room))] for without in parts_without])
        return part_R


def _label_sets(targets_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) multi-hot -> (N,) numbers of the label sets, and (S, K + 1) int32 the sets, each with a 1 behind it."""
    bits = np.packbits(targets_NK, axis=1)
    words = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 4))).view(np.uint32)
    set_N = np.zeros(len(targets_NK), dtype=np.int32)
    row_S = set_N[:1]
    for word_N in words.T:  # of 32 classes
        set_N, row_S = _numbered(set_N.astype(np.uint64) << np.uint64(32) | word_N)
    set_SC = np.pad((targets_NK[row_S] != 0).astype(np.int32), ((0, 0), (0, 1)), constant_values=1)
    return set_N, set_SC


def _numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values -> int32 numbers 0, 1, ... that ascend with them, and the position of one value of each number."""
    codes = pa.array(values).dictionary_encode()  # np.unique sorts them all
    order = np.argsort(codes.dictionary.to_numpy())
    number = np.empty(len(order), dtype=np.int32)
    number[order] = np.arange(len(order))
    numbers = number[codes.indices.to_numpy()]
    position = np.empty(len(order), dtype=np.int64)
    position[numbers] = np.arange(len(numbers))
    return numbers, position
