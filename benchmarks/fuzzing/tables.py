"""Tables of a user: labels, splits, groups, sample submissions."""

import csv
import io
import re
from abc import abstractmethod
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa

from fuzzing.case import Case, Target, Wrong, check_told, damaged, odd_text
from hpa_ray import redact
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import read_group_table, read_ids, read_label_table, read_split_table
from hpa_ray.manifest.csv_file import DELIMITERS

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}")


class Row(NamedTuple):
    line: int
    """In which it begins, counted from 1."""
    cells: dict[str, str]


class Table(Target):
    """A csv of a user. Where nothing has damaged it, it is known row by row what must come out."""

    columns: tuple[str, ...]

    @abstractmethod
    def cell(self, rng: Random, column: str) -> str: ...

    @abstractmethod
    def read(self, uri: str, case: Case) -> tuple[list[tuple[str, Any]], list[str]]:
        """What the program makes of the rows, and its problems with the others."""

    @abstractmethod
    def expected(self, rows: list[dict[str, str]]) -> list[tuple[str, Any]] | None:
        """What it should make of them, None if they must be refused."""

    def make(self, rng: Random) -> Case:
        columns = [*self.columns, *rng.sample(("more", "Predicted", "x y", "é"), rng.choice((0, 0, 1, 3)))]
        if rng.random() < 0.05:
            columns = rng.choices([*columns, "id", "", "Id "], k=rng.randrange(1, 5))
        rng.shuffle(columns)
        rows = [{name: self.cell(rng, name) for name in columns} for _ in range(rng.choice((0, 1, 2, 8, 40)))]
        if rows and rng.random() < 0.2:
            rows.append(dict(rng.choice(rows)))
        delimiter, end = rng.choice(DELIMITERS), rng.choice(("\n", "\n", "\r\n", "\r"))
        text, found = "", []
        for row in [None, *rows]:
            text += "".join(end for _ in range(rng.choice((0,) * 12 + (1, 3))))
            cells = columns if row is None else list(row.values())
            if row is not None:
                found.append(Row(1 + num_line_ends(text), row))
            text += line_of(cells, delimiter, rng.random() < 0.3) + end
        if rng.random() < 0.3:
            text = text.removesuffix(end)
        content = text.encode(errors="replace")
        known: Any = (found, len(set(columns)) == len(columns) and set(self.columns) <= set(columns))
        if any("\ud800" <= char <= "\udfff" for char in text):
            known = None
        if rng.random() < 0.15:
            content = b"\xef\xbb\xbf" + content
        if rng.random() < 0.5:
            return Case(damaged(rng, content), (delimiter,))
        if rng.random() < 0.05:
            return Case(text.encode(rng.choice(("utf-16", "latin-1", "cp037")), errors="replace"), (delimiter,))
        return Case(content, (delimiter,), known)

    def run(self, case: Case) -> None:
        uri = self.write("table.csv", case.content)
        found, problems = self.read(uri, case)
        check_told(("no problem", *problems))
        if case.known is None:
            if not problems:
                self._compare_undamaged(case.content, found)
        else:
            rows, has_columns = case.known
            expected = self.expected([row.cells for row in rows]) if has_columns and rows else None
            if not problems and found != expected:
                raise Wrong(f"rows are {found}, expected {expected}"[:2000])
            self._check_lines(problems, rows)
        if problems:
            raise InputError(*problems)

    def accepts(self, case: Case) -> bool:
        try:
            self.run(case)
        except InputError as error:
            check_told(error.problems)
            if case.known is not None:
                self._check_lines(list(error.problems), case.known[0])
                if all(case.known) and self.expected([row.cells for row in case.known[0]]) is not None:
                    raise Wrong(f"refused without need: {error.problems}") from error
            return False
        return True

    def _check_lines(self, problems: list[str], rows: list[Row]) -> None:
        """A line that is told is that of a row, and the Id that is told stands in it."""
        at = {row.line: row.cells for row in rows}
        for problem in problems:
            match = re.search(r"table\.csv: line (\d+): ", problem)
            if match and redact.redact(repr(at.get(int(match[1]), {}).get("Id")))[1:40] not in problem:
                raise Wrong(f"another line: {problem[:300]}")

    def _compare_undamaged(self, content: bytes, found: list[tuple[str, Any]]) -> None:
        """Against Python's own reader of csv."""
        text = content.decode("utf-8-sig", errors="replace").lstrip("\r\n")
        header = re.split("[\r\n]", text, maxsplit=1)[0]
        wanted = {*self.columns, "split", "fold"}
        marks = {mark: len(wanted.intersection(next(csv.reader([header], delimiter=mark)))) for mark in DELIMITERS}
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=marks.__getitem__))
            names, *records = [record for record in reader if record]
        except csv.Error:  # a cell of more than 128 KiB
            return
        if any(len(record) != len(names) for record in records):
            raise Wrong("rows of unequal length are accepted")
        expected = self.expected([dict(zip(names, record, strict=True)) for record in records])
        if found != expected:
            raise Wrong(f"rows are {found}, Python reads {expected}"[:2000])


def num_line_ends(text: str) -> int:
    return len(re.findall("\r\n|\r|\n", text))


def line_of(cells: list[str], delimiter: str, quoted: bool) -> str:
    buffer = io.StringIO(newline="")
    quoted = quoted or any(char in "".join(cells) for char in '\r\n"')
    style: Any = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    csv.writer(buffer, delimiter=delimiter, quoting=style, lineterminator="").writerow(cells)
    return buffer.getvalue()


def image_id(rng: Random) -> str:
    name = f"{rng.getrandbits(64):x}-bb{rng.randrange(100)}"
    return name if rng.random() < 0.95 else odd_text(rng)


def usable(ids: list[str]) -> bool:
    return all(map(ID.fullmatch, ids)) and len(set(ids)) == len(ids)


class Labels(Table):
    columns = ("Id", "Target")

    def cell(self, rng: Random, column: str) -> str:
        if column == "Id":
            return image_id(rng)
        if rng.random() < 0.03:
            return odd_text(rng)
        return " ".join(
            str(rng.randrange(NUM_CLASSES + (rng.random() < 0.02))) for _ in range(rng.choice((1, 1, 2, 4)))
        )

    def read(self, uri: str, case: Case) -> tuple[list[tuple[str, Any]], list[str]]:
        table = read_label_table(uri)
        if any(ID.fullmatch(name) is None for name in table.image_ids.to_pylist()):
            raise Wrong("an Id that is no name")
        return list(zip(table.image_ids.to_pylist(), table.labels.to_pylist(), strict=True)), table.problems

    def expected(self, rows: list[dict[str, str]]) -> list[tuple[str, Any]] | None:
        if not rows or not usable([row["Id"] for row in rows]):
            return None
        words = [row["Target"].split() for row in rows]
        if not all(re.fullmatch("0{0,6}([0-9]|1[0-9]|2[0-7])", word) for some in words for word in some):
            return None
        return [(row["Id"], sorted({int(word) for word in some})) for row, some in zip(rows, words, strict=True)]


class Split(Table):
    columns = ("Id", "split")

    def cell(self, rng: Random, column: str) -> str:
        if column == "Id":
            return image_id(rng)
        return rng.choice(("train", "train", "val", "test", "0", "1", "")) if rng.random() < 0.97 else odd_text(rng)

    def read(self, uri: str, case: Case) -> tuple[list[tuple[str, Any]], list[str]]:
        table = read_split_table(uri)
        parts = table.parts_of(table.image_ids).to_pylist()
        return list(zip(table.image_ids.to_pylist(), [part or "" for part in parts], strict=True)), []

    def expected(self, rows: list[dict[str, str]]) -> list[tuple[str, Any]] | None:
        ids = [row["Id"] for row in rows]
        if not rows or len(set(ids)) < len(ids):
            return None
        column = "split" if "split" in rows[0] else "fold"
        return [(row["Id"], row[column]) for row in rows]


class Groups(Table):
    columns = ("Id", "group")

    def cell(self, rng: Random, column: str) -> str:
        if column == "Id":
            return image_id(rng)
        return str(rng.randrange(6)) if rng.random() < 0.97 else odd_text(rng)

    def read(self, uri: str, case: Case) -> tuple[list[tuple[str, Any]], list[str]]:
        table = read_group_table(uri)
        groups = table.groups.cast(pa.string()).to_pylist()
        ids = pa.concat_arrays([table.image_ids, pa.array(["\0unknown"])])
        codes = table.codes_of(ids).tolist()
        if len(set(zip(codes, [*groups, None], strict=True))) != len(set(groups)) + 1:
            raise Wrong("codes of groups")
        return list(zip(table.image_ids.to_pylist(), groups, strict=True)), []

    def expected(self, rows: list[dict[str, str]]) -> list[tuple[str, Any]] | None:
        pairs = dict.fromkeys((row["Id"], row["group"]) for row in rows)
        if not rows or len({name for name, _ in pairs}) < len(pairs) or any(not group for _, group in pairs):
            return None
        return list(pairs)


class Submission(Table):
    columns = ("Id",)

    def cell(self, rng: Random, column: str) -> str:
        return image_id(rng) if column == "Id" else rng.choice(("0", "", "0 25", "x"))

    def read(self, uri: str, case: Case) -> tuple[list[tuple[str, Any]], list[str]]:
        return [(name, None) for name in read_ids(uri)], []

    def expected(self, rows: list[dict[str, str]]) -> list[tuple[str, Any]] | None:
        ids = [row["Id"] for row in rows]
        return [(name, None) for name in ids] if rows and usable(ids) else None
