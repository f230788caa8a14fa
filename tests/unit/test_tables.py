"""The csv tables of a user: what can be used is read, everything else is named by its line."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_TABLE, NUM_CLASSES, format_labels
from hpa_ray.manifest import csv_file
from hpa_ray.manifest.keys import repeated
from hpa_ray.manifest.tables import (
    GroupTable,
    LabelTable,
    SplitTable,
    read_group_table,
    read_ids,
    read_label_table,
    read_split_table,
    write_split_table,
)
from hpa_ray.schema import LABELS

IDS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.\-]{0,12}\Z")
LABEL_SETS = st.sets(st.integers(0, NUM_CLASSES - 1), max_size=5).map(sorted)


def table_of(tmp_path: Path, content: str | bytes) -> LabelTable:
    path = tmp_path / "labels.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_label_table(str(path))


# labels


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(IDS, LABEL_SETS), min_size=1, max_size=30, unique_by=lambda row: row[0]),
    newline=st.sampled_from(["\n", "\r\n"]),
    last_newline=st.booleans(),
    bom=st.booleans(),
    quote=st.sampled_from(["", '"']),
    extra=st.booleans(),
    comma=st.sampled_from([",", ";", "\t"]),
)
def test_every_row_is_read_in_its_order(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, list[int]]],
    newline: str,
    last_newline: bool,
    bom: bool,
    quote: str,
    extra: bool,
    comma: str,
) -> None:
    header = ["Batch", "Target", "Id", "Note"] if extra else ["Id", "Target"]
    lines = [comma.join(header)]
    for image_id, labels in rows:
        cell = {"Id": image_id, "Target": f"{quote}{format_labels(reversed(labels))}{quote}"}
        lines.append(comma.join(cell.get(name, f'"a{comma} b"') for name in header))
    text = newline.join(lines) + (newline if last_newline else "")
    table = table_of(tmp_path_factory.mktemp("csv"), (b"\xef\xbb\xbf" if bom else b"") + text.encode())
    assert table.problems == []
    assert table.image_ids.type == pa.string()
    assert table.labels.type == LABELS
    assert list(zip(table.image_ids.to_pylist(), table.labels.to_pylist(), strict=True)) == rows


@settings(deadline=None, max_examples=60)
@given(
    kinds=st.lists(st.sampled_from(["right", "wrong", "blank"]), max_size=12),
    newline=st.sampled_from(["\n", "\r\n"]),
    num_before=st.integers(0, 2),
    note=st.sampled_from(["", '"x"', '"x\ny\n"', 'x"y']),
)
def test_a_problem_is_named_by_its_true_line(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], newline: str, num_before: int, note: str
) -> None:
    """Blank lines are no rows, and a quoted note may take several lines."""
    text = newline * num_before + f"Id,Target,Note{newline}first,1,{newline}"
    expected, line = [], num_before + 3
    for number, kind in enumerate(kinds):
        cell = note if number % 3 == 0 and kind != "blank" else ""
        if kind == "wrong":
            expected.append(f"line {line}: Id '../{number}' - letters, digits and _ . - only (it names files)")
        text += {"right": f"a{number},1,{cell}", "wrong": f"../{number},1,{cell}", "blank": ""}[kind] + newline
        line += 1 + cell.count("\n")
    problems = table_of(tmp_path_factory.mktemp("csv"), text).problems
    assert [problem.partition(".csv: ")[2] for problem in problems[:5]] == expected[:5]
    assert len(problems) == min(len(expected), 6)


def test_lines_of_a_file_with_everything(tmp_path: Path) -> None:
    text = '\ufeff\r\nId;Target;Note\r\n\r\na;1;"two\r\nlines"\r\n../b;1;\r\n\r\nc;28;""\r\na;1;\r\n'
    assert [problem.partition(".csv: ")[2][:22] for problem in table_of(tmp_path, text).problems] == [
        "line 6: Id '../b' - le",
        "line 9: Id 'a' stands ",
        "line 8: Target '28' of",
    ]


def test_cells_of_several_lines_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 100)  # the reader works block by block
    rows = [(f"a{number}", number % 28) for number in range(60)]
    text = "Id,Target,Note\n" + "".join(f'{name},{label},"x\n{name},y\n"\n' for name, label in rows)
    table = table_of(tmp_path, text)
    assert table.problems == []
    assert list(zip(table.image_ids.to_pylist(), table.labels.to_pylist(), strict=True)) == [(n, [k]) for n, k in rows]


def test_an_empty_target_is_no_class_and_counted(tmp_path: Path) -> None:
    table = table_of(tmp_path, 'Id,Target\na,0\nb,\nc,""\nd, \n../e,\nf,1\n')
    assert table.labels.to_pylist() == [[0], [], [], [], [1]]
    assert table.num_empty == 3
    assert table_of(tmp_path, "Id,Target\na,0\n").num_empty == 0


def test_a_submission_is_no_label_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'Target' but 'Predicted' - a submission"):
        table_of(tmp_path, "Id,Predicted\na,0\n")


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    table = table_of(tmp_path, "Id,Target\n007,0\n1e5,1\nnan,2\nnull,3\nNA,4\n")
    assert table.image_ids.to_pylist() == ["007", "1e5", "nan", "null", "NA"]


def test_a_wrong_row_is_left_out_with_its_line(tmp_path: Path) -> None:
    text = "Id,Target\na,0\n../b,1\nc,28\na,2\nd,x y\ne,-1\nf,28\ng,3 3 1\n"
    table = table_of(tmp_path, text)
    assert table.image_ids.to_pylist() == ["a", "g"]
    assert table.labels.to_pylist() == [[0], [1, 3]]
    lines = "\n".join(table.problems)
    for found in (
        "line 3: Id '../b'",
        "line 5: Id 'a' stands more than once",
        "line 4: Target '28' of 'c': '28' is no class number (0 to 27) (and 1 more rows)",
        "line 6: Target 'x y' of 'd'",
        "line 7: Target '-1' of 'e'",
    ):
        assert found in lines
    assert len(table.problems) == 5


@pytest.mark.parametrize(
    "image_id", ["", " a", "a b", "a/b", "..", ".hidden", "-rf", "_a", "a\\b", "naïve", "a" * 201, "a:b", '"a\nb"']
)
def test_ids_that_are_no_file_names_are_refused(tmp_path: Path, image_id: str) -> None:
    assert table_of(tmp_path, f"Id,Target\n{image_id},1\nok,2\n").image_ids.to_pylist() == ["ok"]


def test_a_table_of_nothing_but_mistakes_names_a_few_of_them(tmp_path: Path) -> None:
    num_rows = 20_000
    started = time.perf_counter()
    table = table_of(tmp_path, "Id,Target\n" + "".join(f"{k},cytosol{k}\n" for k in range(num_rows)))
    assert time.perf_counter() - started < 5
    assert len(table.image_ids) == 0
    assert len(table.problems) < 10
    assert f"and {num_rows - 5} more" in table.problems[-1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"\xef\xbb\xbf\r\n", "empty"),
        (b"Id,Target\n", "no rows"),
        (b"id,target\na,1\n", "no column 'Id' and 'Target' - its columns are: id, target"),
        (b"Id\na\n", "no column 'Target'"),
        (b"Id,Id,Target\na,b,1\n", "more than one column 'Id'"),
        (b"Id,Target\na,1,2\n", "not a csv file"),
        (b"Id,Target\n\xff\xfe,1\n", "not a csv file"),
        (b"\xff\xfeI\x00d\x00,\x00", "labels.csv: n"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "labels.csv: n"),
    ],
)
def test_a_file_that_is_no_label_table_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        table_of(tmp_path, content)
    assert reason in str(caught.value)
    assert "labels.csv" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_label_table(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match="cannot be read"):
        read_label_table(str(tmp_path))


def test_the_competition_table(real_data: Path) -> None:
    started = time.perf_counter()
    table = read_label_table(str(real_data / "train.csv"))
    assert time.perf_counter() - started < 3
    assert table.problems == []
    lines = (real_data / "train.csv").read_text().splitlines()[1:]
    assert len(lines) == 31_072
    assert [
        f"{i},{format_labels(sorted(set(k)))}" for i, k in zip(*map(pa.Array.to_pylist, table[:2]), strict=True)
    ] == [f"{i},{format_labels(sorted(set(map(int, k.split()))))}" for i, k in (line.split(",") for line in lines)]
    counts = np.bincount(table.labels.flatten().to_numpy(), minlength=NUM_CLASSES)
    assert counts.tolist() == [count for _, count in CLASS_TABLE]


def test_a_sample_submission_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    path.write_text("Id,Predicted\nb,0\na,0\nc,\n")
    assert read_ids(str(path)) == ["b", "a", "c"]
    path.write_text("Id,Predicted\nb,0\na,0\nb,0\n../c,0\n")
    with pytest.raises(InputError) as caught:
        read_ids(str(path))
    assert len(caught.value.problems) == 2


def test_the_real_sample_submission(real_data: Path) -> None:
    ids = read_ids(str(real_data / "sample_submission.csv"))
    lines = (real_data / "sample_submission.csv").read_text().splitlines()[1:]
    assert ids == [line.split(",")[0] for line in lines]


@settings(deadline=None, max_examples=30)
@given(
    parts=st.dictionaries(IDS, st.sampled_from(["train", "val", "test", "0", "11"]), min_size=1, max_size=20),
    column=st.sampled_from(["split", "fold"]),
)
def test_a_split_comes_back(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, str], column: str) -> None:
    uri = str(tmp_path_factory.mktemp("split") / "split.csv")
    write_split_table(uri, list(parts), list(parts.values()), column=column)
    table = read_split_table(uri)
    assert dict(zip(table.image_ids.to_pylist(), table.parts.to_pylist(), strict=True)) == parts
    lines = Path(uri).read_text().splitlines()
    assert lines[0] == f"Id,{column}"
    assert lines[1:] == sorted(lines[1:], key=lambda line: line.split(",")[0])


def test_a_split_with_an_image_in_two_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("Id,split\na,train\nb,val\na,val\n")
    with pytest.raises(InputError, match="'a' stands more than once"):
        read_split_table(str(path))
    path.write_text("Id,part\na,train\n")
    with pytest.raises(InputError, match="no column 'split'"):
        read_split_table(str(path))


@settings(deadline=None, max_examples=60)
@given(
    parts=st.dictionaries(IDS, st.sampled_from(["train", "val", ""]), min_size=1, max_size=10),
    ids=st.lists(IDS, max_size=10),
    seed=st.integers(0, 9),
)
def test_parts_of_finds_ids_in_any_order(parts: dict[str, str], ids: list[str], seed: int) -> None:
    table = SplitTable(pa.array(parts, pa.string()), pa.array(parts.values(), pa.string()).dictionary_encode())
    ids = [ids[k] for k in np.random.default_rng(seed).permutation(len(ids))] + list(parts)[seed % 2 :]
    found = table.parts_of(pa.array(ids, pa.string()))
    assert found.type == pa.string()
    assert found.to_pylist() == [parts.get(image_id) or None for image_id in ids]


def test_a_split_may_be_written_from_arrow_columns(tmp_path: Path) -> None:
    parts = pa.array(["val", "train", "val"]).dictionary_encode()
    write_split_table(str(tmp_path / "a.csv"), pa.array(["b", "a", "c"]), parts)
    assert (tmp_path / "a.csv").read_bytes() == b"Id,split\na,train\nb,val\nc,val\n"
    with pytest.raises(ValueError):
        write_split_table(str(tmp_path / "b.csv"), ["a"], ["va,l"])
    assert not (tmp_path / "b.csv").exists()


# groups


@settings(deadline=None, max_examples=60)
@given(
    groups=st.dictionaries(IDS, st.sampled_from(["x", "y", "0"]), min_size=1, max_size=10),
    others=st.lists(IDS, max_size=10),
    seed=st.integers(0, 9),
)
def test_ids_of_a_group_have_one_code(
    tmp_path_factory: pytest.TempPathFactory, groups: dict[str, str], others: list[str], seed: int
) -> None:
    uri = str(tmp_path_factory.mktemp("groups") / "groups.csv")
    Path(uri).write_text("".join(f"{name},{group}\n" for name, group in [("Id", "group"), *groups.items()]))
    table = read_group_table(uri)
    ids = sorted({*others, *list(groups)[seed % 3 :]})
    codes = table.codes_of(pa.array(ids, pa.string()))
    assert codes.dtype == np.int64
    for a, code in zip(ids, codes, strict=True):
        same = {b for b, other in zip(ids, codes, strict=True) if other == code}
        assert same == {b for b in ids if b == a or (a in groups and groups.get(b) == groups[a])}


def test_an_id_belongs_to_one_group(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("Id,group\na,1\nb,1\na,1\nc,2\n")
    table = read_group_table(str(path))
    assert isinstance(table, GroupTable)
    assert table.image_ids.to_pylist() == ["a", "b", "c"]
    path.write_text("Id,group\na,1\nb,1\n\na,2\nc,\n")
    with pytest.raises(InputError) as caught:
        read_group_table(str(path))
    lines = [line.partition(".csv: ")[2] for line in caught.value.problems]
    assert lines[0].startswith("line 6: Id 'c' has no group")
    assert lines[1].startswith("line 5: Id 'a' is in a second group, '2'")
    path.write_text("Id,cluster\na,1\n")
    with pytest.raises(InputError, match="no column 'group' - its columns are: Id, cluster"):
        read_group_table(str(path))


# repeated ids


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=20) | st.sampled_from(["a", "b", "a" * 8, "a" * 9]), max_size=30), st.integers(0, 3))
def test_the_second_and_later_rows_of_an_id_are_repeated(ids: list[str], start: int) -> None:
    found = repeated(pa.array([*"xyz"[:start], *ids], pa.string()).slice(start))
    assert found.tolist() == [image_id in ids[:row] for row, image_id in enumerate(ids)]
