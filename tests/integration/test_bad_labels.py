"""Label tables, group tables and what does not fit beside the images: told with the line, all mistakes at once."""

import csv
from pathlib import Path

import pytest
from bad_data import ADVICE, CELL, FUZZ, Data, call, done, files_below, first_images, refused, rejected
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def data(atlas: Path, tmp_path: Path) -> Data:
    return first_images(atlas, tmp_path, 12)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "the file is empty - expected a csv with the header Id,Target"),
        (b" \n\n", "the file is empty - expected a csv with the header Id,Target"),
        (b"Id,Target\n", "no rows below the header"),
        (b"image,Target\na,1\n", "no column 'Id' - its columns are: image, Target"),
        (b"Id,label\na,1\n", "no column 'Target' - its columns are: Id, label"),
        (b"Id|Target\na|1\n", "no column 'Id' and 'Target' - its columns are: Id|Target"),
        (b"Id;label\na;1\n", "no column 'Target' - its columns are: Id, label"),
        (b"Id Target\na 1\n", "no column 'Id' and 'Target' - its columns are: Id Target"),
        (b"\x1b[2J,b\na,1\n", "no column 'Id' and 'Target' - its columns are: ?[2J, b"),
        (b"Id,Target,Target\na,1,2\n", "more than one column 'Target' - keep one"),
        (b"Id,Id,Target\na,b,2\n", "more than one column 'Id' - keep one"),
        (b"Id\tTarget\tId\na\t1\tb\n", "more than one column 'Id' - keep one"),
        (
            b"Id,Predicted\na,1\n",
            "no column 'Target' but 'Predicted' - a submission, not labels: give the csv that has Id,Target, "
            "or rename the column if these are labels",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["check", "explore", "duplicates", "split", "prepare", "train"])
def test_labels_that_are_no_table(content: bytes | None, reason: str, verb: str, data: Data) -> None:
    data.labels.unlink()
    if content is not None:
        data.labels.write_bytes(content)
    assert refused(*data.command(verb)) == [f"{data.labels}: {reason}"]
    assert data.unfinished()


@pytest.mark.parametrize(
    "content",
    [
        *(
            bytes(range(256)) * 9,
            b"Id,Target\na,1,2\n",
            b"Id,Target\n\xff\xfe,1\n",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0",
        ),
        *(b"Id,Target\na\n", b'Id,Target\n"a', b"\xff\xfeI\0d\0,\0T\0", b"PK\x03\x04" + bytes(99)),
    ],
)
@pytest.mark.parametrize("verb", ["check", "prepare", "train"])
def test_labels_that_are_no_text(content: bytes, verb: str, data: Data) -> None:
    data.labels.write_bytes(content)
    told = refused(*data.command(verb))
    assert all(line.startswith(f"{data.labels}: ") for line in told)
    assert data.unfinished()


ROWS = [
    ("28", "line 2: Target '28' of 'ID': '28' is no class number (0 to 27)"),
    ("x", "line 2: Target 'x' of 'ID': 'x' is no class number (0 to 27)"),
    ("-1", "line 2: Target '-1' of 'ID': '-1' is no class number (0 to 27)"),
    ("1.0", "line 2: Target '1.0' of 'ID': '1.0' is no class number (0 to 27)"),
    ("٣", "line 2: Target '٣' of 'ID': '٣' is no class number (0 to 27)"),
    ("0 \x1b[2J", r"line 2: Target '0 \x1b[2J' of 'ID': '\x1b[2J' is no class number (0 to 27)"),
]
IDS = ["../up", "a/b", "a\\b", "..", ".hidden", "", "a b", "a\nb", "a\x1b[2Jb", "a\rb", "x" * 201, "a\x00b", "a\u202eb"]


@pytest.mark.parametrize(("target", "problem"), ROWS)
def test_a_target_that_is_no_class(target: str, problem: str, data: Data) -> None:
    rows = [line.split(",") for line in data.labels.read_text().splitlines()]
    rows[1][1] = target
    data.labels.write_text("\n".join(",".join(row) for row in rows))
    told = [f"{data.labels}: {problem.replace('ID', rows[1][0])}"]
    for verb in ("duplicates", "split", "prepare", "train"):
        assert refused(*data.command(verb)) == told
    assert f"problem  {told[0]}" in done(*data.command("check"))
    # the row is out of the table, so its image has no label either
    assert refused(*data.command("check"), "--strict") == ["2 problems, listed above"]
    assert data.unfinished()


@pytest.mark.parametrize("image_id", IDS)
def test_an_id_that_is_no_name(image_id: str, data: Data) -> None:
    with data.labels.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow([image_id, "1"])
    told = refused(*data.command("prepare"))
    assert told == [f"{data.labels}: line 14: Id {image_id!r} - letters, digits and _ . - only (it names files)"]
    assert refused(*data.command("train")) == told
    assert f"problem  {told[0]}" in done(*data.command("check"))
    assert data.unfinished()


@pytest.mark.parametrize(("separator", "end"), [(";", "\n"), ("\t", "\n"), (";", "\r\n")])
def test_other_separators_are_read_and_mistakes_told_by_their_lines(separator: str, end: str, data: Data) -> None:
    lines = data.labels.read_text().replace(",", separator).splitlines()
    data.labels.write_bytes(end.join([*lines[:4], "", *lines[4:], f"../x{separator}3", ""]).encode())
    told = [f"{data.labels}: line 15: Id '../x' - letters, digits and _ . - only (it names files)"]
    assert refused(*data.command("prepare")) == told
    assert f"problem  {told[0]}" in done(*data.command("check"))
    assert data.unfinished()
    data.labels.write_bytes(end.join(lines).encode())
    done(*data.command("prepare"))
    assert data.index()["num_images"] == 12


def test_many_mistakes_are_told_at_once_but_not_all_of_them(data: Data) -> None:
    first, second = data.ids[:2]
    with data.labels.open("a") as file:
        file.write(f"{first},1\n{second},1\n" + "".join(f"/{n},{n}\n" for n in range(20, 32)))
    told = refused(*data.command("prepare"))
    name = "letters, digits and _ . - only (it names files)"
    assert told == [
        *(f"{data.labels}: line {16 + n}: Id '/{20 + n}' - {name}" for n in range(5)),
        f"{data.labels}: and 7 more rows like these",
        f"{data.labels}: line 14: Id '{first}' stands more than once - keep one row",
        f"{data.labels}: line 15: Id '{second}' stands more than once - keep one row",
        *(f"{data.labels}: line {n - 4}: Target '{n}' of '/{n}': '{n}' is no class number (0 to 27)" for n in (28, 29)),
        *(f"{data.labels}: line {n - 4}: Target '{n}' of '/{n}': '{n}' is no class number (0 to 27)" for n in (30, 31)),
    ]


def test_images_without_labels_and_labels_without_images(data: Data) -> None:
    lines = data.labels.read_text().splitlines()
    unlabelled = lines.pop().split(",")[0]
    data.labels.write_text("\n".join([*lines, "nowhere,3", ""]))
    missing = f"{data.images}/nowhere_red.png: no image files"
    said = done(*data.command("check"))
    assert f"problem  {missing}" in said
    assert f"problem  1 images have no row in {data.labels}" in said
    assert said[-1] == "problems  2"
    advice = f"1 of 12 images can not be used: {ADVICE}"
    assert refused(*data.command("prepare")) == [missing, advice]
    assert refused(*data.command("train")) == [missing, advice]
    assert data.unfinished()
    done(*data.command("prepare", "data.on_error=quarantine", "data.max_rejected=0.1"))
    assert rejected(data.shards) == [("nowhere", "nowhere_red.png", "no image files")]
    assert unlabelled not in data.index()["shards"]
    assert data.index()["num_images"] == 11


def test_either_images_or_labels_can_be_checked_alone(data: Data) -> None:
    with data.labels.open("a") as file:
        file.write("nowhere,99\n")
    problem = f"problem  {data.labels}: line 14: Target '99' of 'nowhere': '99' is no class number (0 to 27)"
    of_labels = done("check", f"data.labels={data.labels}")
    assert of_labels[0] == f"labels  {data.labels}: 12 usable rows"
    assert [line for line in of_labels if line.startswith("problem")] == [problem, "problems  1"]
    assert refused("check", f"data.labels={data.labels}", "--strict") == ["1 problems, listed above"]
    path = data.images / f"{data.ids[2]}_red.png"
    path.unlink()
    of_images = done("check", f"data.images={data.images}")
    assert [line for line in of_images if line.startswith("problem")] == [
        f"problem  {path}: missing: red plane",
        "problems  1",
    ]
    assert refused("check", f"data.images={data.images}", "check.strict=true") == ["1 problems, listed above"]


# ---- tables of groups


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no such file"),
        ("", "the file is empty - expected a csv with the header Id,group"),
        ("Id,group\n", "no rows below the header"),
        ("Id,Target\nA,1\n", "no column 'group' - its columns are: Id, Target"),
        ("image_a,image_b\nA,B\n", "no column 'Id' and 'group' - its columns are: image_a, image_b"),
        ("Id,group,group\nA,1,2\n", "more than one column 'group' - keep one"),
        ("Id,group\nB,1\nA,\n", "line 3: Id 'A' has no group - leave its row out if it stands alone"),
        ("Id,group\nA,1\nB,1\n\nA,2\n", "line 5: Id 'A' is in a second group, '2' - keep one row"),
        ("Id;group\nA;1\nB;1\nA;\x1b[2J\n", r"line 4: Id 'A' is in a second group, '\x1b[2J' - keep one row"),
    ],
)
def test_groups_that_are_none(text: str | None, reason: str, data: Data) -> None:
    groups = data.root / "groups.csv"
    if text is not None:
        groups.write_text(text.replace("A", data.ids[0]).replace("B", data.ids[1]))
    before = files_below(data.root)
    for verb in ("split", "train"):
        told = reason.replace("'A'", f"'{data.ids[0]}'")
        assert refused(*data.command(verb, f"data.groups={groups}")) == [f"{groups}: {told}"]
    assert files_below(data.root) == before


def test_groups_too_large_to_be_dealt_out(data: Data) -> None:
    groups = data.root / "groups.csv"
    groups.write_text("Id,group\n" + "".join(f"{name},1\n" for name in data.ids))
    assert refused(*data.command("split", f"data.groups={groups}")) == [
        "3 parts but only 1 groups of rows: use fewer parts or folds"
    ]
    assert data.unfinished()


# ---- anything at all

TABLES = st.binary(max_size=60) | st.lists(st.lists(CELL, min_size=1, max_size=3), max_size=4).map(
    lambda rows: "\n".join(",".join(row) for row in [["Id", "Target"], *rows]).encode()
)


@FUZZ
@given(TABLES)
def test_any_bytes_as_a_csv(data: Data, content: bytes) -> None:
    data.labels.write_bytes(content)
    assert call(*data.command("check", "check.decode=false"))[0] in (0, 2)
    assert call("split", f"data.labels={data.labels}", f"split.output={data.root}/split.csv")[0] in (0, 2)
    assert call(*data.command("prepare"))[0] == 2
