"""The csv tables of a user: labels (Id,Target), a sample submission (Id,...), a split (Id,split)."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from hpa_ray.errors import InputError
from hpa_ray.labels import parse_labels
from hpa_ray.schema import LABELS
from hpa_ray.storage import read_bytes, write_bytes

ID_CHARACTERS = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}"
"""Ids become file names: no separators, no leading dot, no control characters."""
SHOWN = 5


class LabelTable(NamedTuple):
    """The rows of a label csv that can be used, and one line for each thing that is wrong with the others."""

    image_ids: pa.Array  # string, each once
    labels: pa.Array  # list<int8>
    problems: list[str]


def read_label_table(uri: str) -> LabelTable:
    """Raises InputError if the file cannot be read as a csv with the columns Id and Target."""
    table = _read_csv(uri, ["Id", "Target"])
    ids, targets = table["Id"].combine_chunks(), table["Target"].combine_chunks()
    problems: list[str] = []
    usable = np.ones(len(ids), dtype=bool)
    _refuse(uri, ids, _bad_ids(ids), usable, problems, "Id {!r} - letters, digits and _ . - only (it names files)")
    seen = _repeated(ids)
    _refuse(uri, ids, seen, usable, problems, "Id {!r} stands more than once - keep one row")

    sets = targets.dictionary_encode()  # a few hundred different sets however long the table is
    codes = sets.indices.to_numpy()
    parsed: list[list[int] | None] = []
    wrong: dict[int, str] = {}  # code of a set -> what is wrong with it
    for code, text in enumerate(sets.dictionary.to_pylist()):
        try:
            parsed.append(parse_labels(text))
        except ValueError as error:
            parsed.append(None)
            wrong[code] = str(error)
    for code, reason in list(wrong.items())[:SHOWN]:
        rows = np.flatnonzero(codes == code)
        text = targets[int(rows[0])].as_py()
        more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
        problems.append(f"{uri}: line {rows[0] + 2}: Target {text!r} of {ids[int(rows[0])].as_py()!r}: {reason}{more}")
    if len(wrong) > SHOWN:
        problems.append(f"{uri}: and {len(wrong) - SHOWN} more kinds of Target like these")
    usable[np.isin(codes, list(wrong))] = False
    labels = pa.array(parsed, LABELS).take(sets.indices)
    mask = pa.array(usable)
    return LabelTable(ids.filter(mask), labels.filter(mask), problems)


def read_ids(uri: str) -> list[str]:
    """The Ids of a sample submission, in its order. Raises InputError for a file that is none."""
    ids = _read_csv(uri, ["Id"])["Id"].combine_chunks()
    problems: list[str] = []
    usable = np.ones(len(ids), dtype=bool)
    _refuse(uri, ids, _bad_ids(ids), usable, problems, "Id {!r} - letters, digits and _ . - only")
    _refuse(uri, ids, _repeated(ids), usable, problems, "Id {!r} stands more than once - keep one row")
    if problems:
        raise InputError(*problems)
    return list(ids.to_pylist())


def read_split_table(uri: str) -> dict[str, str]:
    """Id -> part of a csv with the columns Id and split (or fold). Raises InputError."""
    table = _read_csv(uri, ["Id"])
    column = next((name for name in ("split", "fold") if name in table.column_names), None)
    if column is None:
        raise InputError(f"{uri}: no column 'split' - `hpa-ray split split.output={uri}` writes such a file")
    counts = Counter(table["Id"].to_pylist())
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise InputError(f"{uri}: Id {twice[0]!r} stands more than once - an image belongs to one part")
    return dict(zip(table["Id"].to_pylist(), table[column].to_pylist(), strict=True))


def write_split_table(uri: str, image_ids: Sequence[str], parts: Sequence[str], *, column: str = "split") -> None:
    rows = sorted(zip(image_ids, parts, strict=True))  # no quotes: neither Ids nor parts can hold a comma
    write_bytes(uri, "".join(f"{image_id},{part}\n" for image_id, part in [("Id", column), *rows]).encode())


def _read_csv(uri: str, columns: Sequence[str]) -> pa.Table:
    try:
        data = read_bytes(uri)
    except FileNotFoundError as error:
        raise InputError(f"{uri}: no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri}: cannot be read ({error})") from error
    if not data.strip():
        raise InputError(f"{uri}: the file is empty - expected a csv with the header {','.join(columns)}")
    try:
        header = csv.read_csv(io.BytesIO(data.split(b"\n", 1)[0] + b"\n")).column_names
        strings = {name: pa.string() for name in header}
        convert = csv.ConvertOptions(column_types=strings, strings_can_be_null=False)
        table = csv.read_csv(io.BytesIO(data), convert_options=convert)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(f"{uri}: not a csv file ({' '.join(str(error).split())[:200]})") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        found = ", ".join(_printable(name) for name in table.column_names[:8])
        raise InputError(f"{uri}: no column {' and '.join(map(repr, missing))} - its columns are: {found}")
    twice = [name for name in (*columns, "split", "fold") if table.column_names.count(name) > 1]
    if twice:
        raise InputError(f"{uri}: more than one column {twice[0]!r} - keep one")
    if not table.num_rows:
        raise InputError(f"{uri}: no rows below the header")
    return table


def _printable(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)[:60]


def _bad_ids(ids: pa.Array) -> np.ndarray:
    good: np.ndarray = pc.match_substring_regex(ids, f"^{ID_CHARACTERS}$").to_numpy(zero_copy_only=False)
    return ~good


def _repeated(ids: pa.Array) -> np.ndarray:
    """True at the second and later rows of an Id."""
    codes = ids.dictionary_encode().indices.to_numpy()
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return ~first


def _refuse(uri: str, ids: pa.Array, bad: np.ndarray, usable: np.ndarray, problems: list[str], message: str) -> None:
    rows = np.flatnonzero(bad)
    usable[rows] = False
    for row in rows[:SHOWN]:
        problems.append(f"{uri}: line {row + 2}: {message.format(ids[int(row)].as_py())}")
    if len(rows) > SHOWN:
        problems.append(f"{uri}: and {len(rows) - SHOWN} more rows like these")
