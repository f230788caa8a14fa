"""A csv file of a user -> its columns as text; what is wrong with a row is said with the line it stands in.

Commas, semicolons or tabs between the cells, with or without quotes and a byte order mark, any line ends.
"""

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from hpa_ray.errors import InputError
from hpa_ray.progress import one_line
from hpa_ray.storage import read_bytes

DELIMITERS = ",;\t"
SHOWN = 5
"""Problems of a kind that are listed one by one."""
BLOCK_BYTES = 2**24
TOLD_CHARACTERS = 250
"""Of a cell that is told of: a file that is none may be one large cell."""


class CsvFile:
    """The wanted columns, combined into one chunk each; `problems` grows while the rows are looked at."""

    def __init__(self, uri: str, columns: Sequence[str], *, one_of: Sequence[str] = ()) -> None:
        """Read `columns`, and the first of `one_of` that is there. Raises InputError if this cannot be done."""
        self.uri = uri
        data = self._read()
        header = _first_line(data)
        if not header.strip():
            raise InputError(f"{uri}: the file is empty - expected a csv with the header {','.join(columns)}")
        wanted = {*columns, *one_of}
        try:
            names_by = {mark: _header_names(header, mark) for mark in DELIMITERS}
            self.delimiter = max(DELIMITERS, key=lambda mark: len(wanted.intersection(names_by[mark])))
            found = names_by[self.delimiter]
            self._check_columns(found, columns, one_of)
            taken = [*columns, *[name for name in one_of if name in found][:1]]
            # repeated values are kept once: all columns but the first
            types = {name: pa.dictionary(pa.int32(), pa.string()) if k else pa.string() for k, name in enumerate(taken)}
            table = arrow_csv.read_csv(
                pa.BufferReader(data),
                read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES),
                parse_options=self._parse_options(b'"' in data),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=types, strings_can_be_null=False, include_columns=taken
                ),
            )
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise InputError(f"{uri}: not a csv file ({one_line(' '.join(str(error).split())[:200])})") from error
        if not table.num_rows:
            raise InputError(f"{uri}: no rows below the header")
        self.num_rows: int = table.num_rows
        num_lines = data.count(b"\n") + (not data.endswith(b"\n"))
        self._plain = b'"' not in data and num_lines == table.num_rows + 1  # every line is a row
        del data
        self.columns: dict[str, pa.Array] = {}
        for name in taken:
            self.columns[name] = table[name].unify_dictionaries().combine_chunks()
            table = table.drop_columns(name)  # a second copy of ten million ids is 0.4 GiB
        self._found: list[tuple[int, str]] = []  # row, what is wrong with it; -1: of no row

    def __getitem__(self, column: str) -> pa.Array:
        return self.columns[column]

    def refuse(self, rows: np.ndarray, describe: Callable[[int], str], *, more: str = "rows") -> None:
        """Note what is wrong with these rows: of the first few each, then how many more."""
        self._found += [(row, describe(row)) for row in rows[:SHOWN].tolist()]
        if len(rows) > SHOWN:
            self._found.append((-1, f"and {len(rows) - SHOWN} more {more} like these"))

    @property
    def problems(self) -> list[str]:
        """A line for each thing noted, with the lines of the file that the rows begin in."""
        rows = sorted({row for row, _ in self._found if row >= 0})
        line_of = dict(zip(rows, self._lines(rows), strict=True))
        return [f"{self.uri}: {f'line {line_of[row]}: ' if row >= 0 else ''}{text}" for row, text in self._found]

    def _lines(self, rows: list[int]) -> list[int]:
        """Ascending rows -> their first lines, counted from 1. Blank lines are no rows, quoted cells may hold some."""
        if self._plain or not rows:
            return [row + 2 for row in rows]
        lines: list[int] = []
        row, start = -2, 1  # the header is row -1
        text = io.TextIOWrapper(io.BytesIO(self._read()), "utf-8-sig", errors="replace", newline="")
        reader = csv.reader(text, delimiter=self.delimiter)
        with contextlib.suppress(csv.Error):  # a cell of more than 128 KiB
            for record in reader:
                row += bool(record)
                if record and row == rows[len(lines)]:
                    lines.append(start)
                    if len(lines) == len(rows):
                        break
                start = reader.line_num + 1
        return lines + [row + 2 for row in rows[len(lines) :]]  # without blank lines and line breaks in cells

    def _read(self) -> bytes:
        try:
            return read_bytes(self.uri)
        except FileNotFoundError as error:
            raise InputError(f"{self.uri}: no such file") from error
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.uri}: cannot be read ({error})") from error

    def _parse_options(self, quoted: bool) -> arrow_csv.ParseOptions:
        return arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=quoted)

    def _check_columns(self, found: list[str], columns: Sequence[str], one_of: Sequence[str]) -> None:
        missing = [name for name in columns if name not in found]
        if missing == ["Target"] and "Predicted" in found:
            raise InputError(
                f"{self.uri}: no column 'Target' but 'Predicted' - a submission, not labels: give the csv that has"
                f" {','.join(columns)}, or rename the column if these are labels"
            )
        if missing:
            listed = ", ".join(re.sub(r"[^\x20-\x7e]", "?", name)[:60] for name in found[:8])
            raise InputError(f"{self.uri}: no column {' and '.join(map(repr, missing))} - its columns are: {listed}")
        twice = [name for name in (*columns, *one_of) if found.count(name) > 1]
        if twice:
            raise InputError(f"{self.uri}: more than one column {twice[0]!r} - keep one")


def told(cell: str) -> str:
    """A cell as it stands in a message, in quotes."""
    text = repr(cell[:TOLD_CHARACTERS])
    return text if len(text) <= TOLD_CHARACTERS else f"{text[:TOLD_CHARACTERS]}..."


def _first_line(data: bytes) -> bytes:
    """The first line that is not blank, without a byte order mark; nothing if there is none."""
    match = re.compile(rb"[\r\n]*([^\r\n]+)").match(data, 3 if data.startswith(codecs.BOM_UTF8) else 0)
    return b"" if match is None else match[1]


def _header_names(line: bytes, delimiter: str) -> list[str]:
    options = arrow_csv.ParseOptions(delimiter=delimiter)
    names: list[str] = arrow_csv.read_csv(pa.BufferReader(line + b"\n"), parse_options=options).column_names
    return names
