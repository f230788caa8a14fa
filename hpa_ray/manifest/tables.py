"""The csv tables of a user: labels (Id,Target), a sample submission (Id,...), a split (Id,split), groups (Id,group).

Ten million rows fit: columns are Arrow arrays, and no row becomes a Python object. The ids of a table may hold 2 GiB,
about fifty million of the competition's.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from hpa_ray.errors import InputError
from hpa_ray.labels import parse_labels
from hpa_ray.manifest.csv_file import SHOWN as SHOWN
from hpa_ray.manifest.csv_file import CsvFile, told
from hpa_ray.manifest.keys import hash_order, repeated
from hpa_ray.schema import LABELS, are_ids
from hpa_ray.storage import write_bytes

Words: TypeAlias = Sequence[str] | pa.Array


class LabelTable(NamedTuple):
    """The rows of a label csv that can be used, and one line for each thing that is wrong with the others."""

    image_ids: pa.Array  # string, each once
    labels: pa.Array  # list<int8>
    problems: list[str]
    num_empty: int = 0  # usable rows whose Target names no class


class SplitTable(NamedTuple):
    """The part of every image that is in a split."""

    image_ids: pa.Array  # string, each once
    parts: pa.DictionaryArray  # int32 -> string

    def parts_of(self, ids: pa.Array) -> pa.Array:
        """The part of each id as string, null where the table has no row or names no part."""
        parts = self.parts.take(_rows_of(ids, self.image_ids)).cast(pa.string())
        return pc.if_else(pc.equal(parts, ""), pa.scalar(None, pa.string()), parts)


class GroupTable(NamedTuple):
    """Images that belong together, such as near duplicates; groups that are named by one id have one member."""

    image_ids: pa.Array  # string, each once
    groups: pa.DictionaryArray  # int32 -> string

    def codes_of(self, ids: pa.Array) -> np.ndarray:
        """(N,) int64: equal for the ids of a group; an id without a row has a number of its own. ids: each once."""
        codes = self.groups.indices.take(_rows_of(ids, self.image_ids))
        known = codes.is_valid().to_numpy(zero_copy_only=False)
        own = np.arange(len(ids), dtype=np.int64) + len(self.groups.dictionary)
        numbers: np.ndarray = np.where(known, codes.fill_null(0).to_numpy(), own)
        return numbers


def read_label_table(uri: str) -> LabelTable:
    """Raises InputError if the file cannot be read as a csv with the columns Id and Target."""
    table = CsvFile(uri, ["Id", "Target"])
    ids, targets = table["Id"], table["Target"]
    usable = _usable_ids(table, "letters, digits and _ . - only (it names files)")

    codes = targets.indices.to_numpy()  # a few hundred different sets however long the table is
    num_of = np.bincount(codes, minlength=len(targets.dictionary))
    sets: list[list[int] | None] = []
    wrong: dict[int, str] = {}  # code of a set -> what is wrong with it
    for code, text in enumerate(targets.dictionary.to_pylist()):
        try:
            sets.append(parse_labels(text))
        except ValueError as error:
            sets.append(None)
            wrong[code] = str(error)
    if wrong:
        is_wrong = np.isin(codes, list(wrong))
        usable &= ~is_wrong
        _, first = np.unique(codes[is_wrong], return_index=True)
        rows = np.sort(np.flatnonzero(is_wrong)[first])  # the first row of each kind

        def describe(row: int) -> str:
            code = codes[row]
            more = f" (and {num_of[code] - 1} more rows)" if num_of[code] > 1 else ""
            return f"Target {told(targets[row].as_py())} of {told(ids[row].as_py())}: {wrong[code]}{more}"

        table.refuse(rows, describe, more="kinds of Target")
    labels = pa.array(sets, LABELS).take(targets.indices)
    if not usable.all():
        mask = pa.array(usable)
        ids, labels = ids.filter(mask), labels.filter(mask)
    num_empty = int((labels.value_lengths().to_numpy(zero_copy_only=False) == 0).sum())
    return LabelTable(ids, labels, table.problems, num_empty)


def read_ids(uri: str) -> list[str]:
    """The Ids of a sample submission, in its order. Raises InputError for a file that is none."""
    table = CsvFile(uri, ["Id"])
    _usable_ids(table, "letters, digits and _ . - only")
    if table.problems:
        raise InputError(*table.problems)
    return list(table["Id"].to_pylist())


def read_split_table(uri: str, *, prefer: Literal["split", "fold"] = "split") -> SplitTable:
    """A csv with the columns Id and split or fold; of both, the preferred one is read. Raises InputError."""
    table = CsvFile(uri, ["Id"], one_of=("split", "fold"))
    parts = next((table[name] for name in sorted(("split", "fold"), key=prefer.__ne__) if name in table.columns), None)
    if parts is None:
        raise InputError(f"{uri}: no column 'split' - `hpa-ray split split.output={uri}` writes such a file")
    ids = table["Id"]
    again = np.flatnonzero(repeated(ids))
    table.refuse(again, lambda row: f"Id {told(ids[row].as_py())} stands more than once - an image belongs to one part")
    if table.problems:
        raise InputError(*table.problems)
    return SplitTable(ids, parts)


def read_group_table(uri: str) -> GroupTable:
    """A csv with the columns Id and group; a row may stand twice. Raises InputError, also for an Id in two groups."""
    table = CsvFile(uri, ["Id", "group"])
    ids, groups = table["Id"], table["group"]
    unnamed = np.flatnonzero(pc.equal(groups, "").to_numpy(zero_copy_only=False))
    table.refuse(
        unnamed, lambda row: f"Id {told(ids[row].as_py())} has no group - leave its row out if it stands alone"
    )
    order, again_N = hash_order(ids)
    places = np.flatnonzero(again_N)
    codes = groups.indices.to_numpy()
    differ = codes[order[places]] != codes[order[places - 1]]
    table.refuse(
        np.sort(order[places[differ]]),
        lambda row: f"Id {told(ids[row].as_py())} is in a second group, {told(groups[row].as_py())} - keep one row",
    )
    if table.problems:
        raise InputError(*table.problems)
    if not len(places):
        return GroupTable(ids, groups)
    first = np.ones(len(ids), dtype=bool)
    first[order[places]] = False
    return GroupTable(ids.filter(pa.array(first)), groups.filter(pa.array(first)))


def open_groups(uri: str | None, ids: pa.Array) -> GroupTable | None:
    """The group table data.groups for images with these ids, None if it is unset.

    Raises InputError if it can not be read or knows none of the ids: it would have no effect.
    """
    if uri is None:
        return None
    groups = read_group_table(uri)
    if len(ids) and _rows_of(ids, groups.image_ids).null_count == len(ids):
        raise InputError(f"data.groups = {uri}: none of its Ids is an image of the data - give the table of this data")
    return groups


def write_split_table(uri: str, image_ids: Words, parts: Words, *, column: str = "split") -> None:
    """The rows in the order of their Ids. Raises ValueError where a word would need quotes."""
    table = pa.table({"Id": _strings(image_ids), column: _strings(parts)})
    ids = table["Id"].combine_chunks()
    if not pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py():  # mostly they are; sorting ten million takes 10 s
        table = table.take(pc.sort_indices(table, [("Id", "ascending"), (column, "ascending")]))
    sink = pa.BufferOutputStream()
    sink.write(f"Id,{column}\n".encode())
    csv.write_csv(table, sink, csv.WriteOptions(include_header=False, quoting_style="none", batch_size=2**16))
    write_bytes(uri, sink.getvalue())


def _strings(words: Words) -> pa.Array:
    return words.cast(pa.string()) if isinstance(words, pa.Array) else pa.array(words, pa.string())


def _usable_ids(table: CsvFile, rule: str) -> np.ndarray:
    """(N,) bool: the Id can name files and has not stood before."""
    ids = table["Id"]
    good = are_ids(ids)
    table.refuse(np.flatnonzero(~good), lambda row: f"Id {told(ids[row].as_py())} - {rule}")
    again = repeated(ids)
    table.refuse(np.flatnonzero(again), lambda row: f"Id {told(ids[row].as_py())} stands more than once - keep one row")
    usable: np.ndarray = good & ~again
    return usable


def _rows_of(ids: pa.Array, among: pa.Array) -> pa.Array:
    """The row of each id, null where there is none."""
    if ids.equals(among):
        return pa.array(np.arange(len(ids), dtype=np.int32))
    return pc.index_in(ids, value_set=among)  # a hash table of 1.6 GiB for ten million ids
