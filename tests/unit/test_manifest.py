"""Label tables and folders -> the manifest: every usable image once, in order; every other one with a reason."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_ray.channels import STAINS
from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_TABLE, NUM_CLASSES, format_labels
from hpa_ray.manifest import (
    Folder,
    LabelTable,
    build_manifest,
    check_ceiling,
    list_folder,
    problem_lines,
    read_ids,
    read_label_table,
    read_split_table,
    write_split_table,
)
from hpa_ray.manifest.build import multi_hot_column
from hpa_ray.schema import LABELS, MANIFEST_ROW, Reject

IDS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.\-]{0,12}\Z")
LABEL_SETS = st.sets(st.integers(0, NUM_CLASSES - 1), max_size=5).map(sorted)


def table_of(tmp_path: Path, content: str | bytes) -> LabelTable:
    path = tmp_path / "labels.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_label_table(str(path))


# csv


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(IDS, LABEL_SETS), min_size=1, max_size=30, unique_by=lambda row: row[0]),
    newline=st.sampled_from(["\n", "\r\n"]),
    last_newline=st.booleans(),
    bom=st.booleans(),
    quote=st.sampled_from(["", '"']),
    extra=st.booleans(),
)
def test_every_row_is_read_in_its_order(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, list[int]]],
    newline: str,
    last_newline: bool,
    bom: bool,
    quote: str,
    extra: bool,
) -> None:
    header = ["Batch", "Target", "Id", "Note"] if extra else ["Id", "Target"]
    lines = [",".join(header)]
    for image_id, labels in rows:
        cell = {"Id": image_id, "Target": f"{quote}{format_labels(reversed(labels))}{quote}"}
        lines.append(",".join(cell.get(name, '"a, b"') for name in header))
    text = newline.join(lines) + (newline if last_newline else "")
    table = table_of(tmp_path_factory.mktemp("csv"), (b"\xef\xbb\xbf" if bom else b"") + text.encode())
    assert table.problems == []
    assert table.image_ids.type == pa.string()
    assert table.labels.type == LABELS
    assert list(zip(table.image_ids.to_pylist(), table.labels.to_pylist(), strict=True)) == rows


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
    assert read_split_table(uri) == parts
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


# folders


def test_a_folder_is_read_by_its_names(tmp_path: Path) -> None:
    names = [
        "a_red.png",
        "a_green.PNG",
        "a_b_blue.png",
        "x_green.tif",
        "a_pink.png",
        "notes.txt",
        "_red.png",
        "a_red.png.bak",
    ]
    for size, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "b_red.png").mkdir()
    folder = list_folder(str(tmp_path))
    assert folder.stains == {"a": {"red": "png", "green": "PNG"}, "a_b": {"blue": "png"}}
    assert folder.sizes == {name: size for size, name in enumerate(names)}
    assert folder.other_files == sorted(["x_green.tif", "a_pink.png", "notes.txt", "_red.png", "a_red.png.bak"])


@pytest.mark.parametrize("order", [["a_red.PNG", "a_red.png"], ["a_red.png", "a_red.PNG"]])
def test_of_two_spellings_one_is_taken_whatever_their_order(order: list[str]) -> None:
    """An object store lists by name, a disk in any order."""
    from hpa_ray.storage import join, write_bytes

    uri = join("memory://manifest-two-spellings", order[0][-3:])
    for name in order:
        write_bytes(join(uri, name), b"1")
    assert list_folder(uri).stains == {"a": {"red": "png"}}


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_folder(str(tmp_path / "none"))
    with pytest.raises(InputError, match="it holds no files"):
        list_folder(str(tmp_path))
    (tmp_path / "x.tif").touch()
    with pytest.raises(InputError, match=r"its 1 files look like 'x\.tif'"):
        list_folder(str(tmp_path))
    with pytest.raises(InputError, match="is a file"):
        list_folder(str(tmp_path / "x.tif"))


# manifest


@st.composite
def folders_and_labels(draw: st.DrawFn) -> tuple[Folder, LabelTable]:
    stains = st.dictionaries(st.sampled_from(STAINS), st.sampled_from(["png", "png", "png", "PNG"]), min_size=1)
    full = st.just(dict.fromkeys(STAINS, "png"))
    files = draw(st.dictionaries(IDS, full | stains, min_size=1, max_size=12))
    ids = draw(st.lists(st.sampled_from(sorted(files)) | IDS, max_size=12, unique=True))
    labels = draw(st.lists(LABEL_SETS, min_size=len(ids), max_size=len(ids)))
    return Folder(files, {}, []), LabelTable(pa.array(ids, pa.string()), pa.array(labels, LABELS), [])


@settings(deadline=None)
@given(data=folders_and_labels(), channels=st.lists(st.sampled_from(STAINS), min_size=1, max_size=4, unique=True))
def test_every_labelled_image_is_a_row_or_a_reject(data: tuple[Folder, LabelTable], channels: list[str]) -> None:
    folder, labels = data
    manifest = build_manifest(folder, labels, channels)
    assert manifest.table.schema == MANIFEST_ROW
    known = dict(zip(labels.image_ids.to_pylist(), labels.labels.to_pylist(), strict=True))
    usable = {
        image_id: folder.stains[image_id][channels[0]]
        for image_id in known
        if len({folder.stains.get(image_id, {}).get(stain) for stain in channels} | {None}) == 2
        and all(stain in folder.stains[image_id] for stain in channels)
    }
    ids = manifest.table["image_id"].to_pylist()
    assert ids == sorted(usable) == manifest.image_ids.to_pylist()
    assert manifest.table["extension"].to_pylist() == [usable[image_id] for image_id in ids]
    assert manifest.table["labels"].to_pylist() == [known[image_id] for image_id in ids]
    assert [reject.image_id for reject in manifest.rejects] == sorted(known.keys() - usable.keys())
    assert manifest.num_unlabelled == len(folder.stains.keys() - known.keys())
    targets = manifest.targets()
    assert targets.dtype == np.uint8
    assert [np.flatnonzero(row).tolist() for row in targets] == [known[image_id] for image_id in ids]


def test_without_labels_every_image_is_taken() -> None:
    folder = Folder({"b": dict.fromkeys(STAINS, "png"), "a": dict.fromkeys(STAINS, "png"), "c": {"red": "png"}}, {}, [])
    manifest = build_manifest(folder, None, STAINS)
    assert manifest.table["image_id"].to_pylist() == ["a", "b"]
    assert manifest.table["labels"].null_count == 2
    assert manifest.table.schema == MANIFEST_ROW
    assert [reject.image_id for reject in manifest.rejects] == ["c"]
    assert manifest.num_unlabelled == 0


def test_a_reject_says_why() -> None:
    files = {
        "few": {"red": "png"},
        "mixed": {"red": "png", "green": "PNG", "blue": "png", "yellow": "png"},
        "good": dict.fromkeys(STAINS, "png"),
    }
    ids = ["good", "few", "mixed", "none"]
    labels = LabelTable(pa.array(ids), pa.array([[0]] * 4, LABELS), [])
    manifest = build_manifest(Folder(files, {}, []), labels, STAINS)
    assert manifest.table["image_id"].to_pylist() == ["good"]
    assert manifest.rejects == [
        Reject(-1, "few", "few_green.png", "missing: green, blue, yellow plane"),
        Reject(-1, "mixed", "mixed_red.png", "planes in different formats: PNG, png"),
        Reject(-1, "none", "none_red.png", "no image files"),
    ]
    assert build_manifest(Folder(files, {}, []), labels, ["red"]).table.num_rows == 3


@given(label_sets=st.lists(LABEL_SETS, max_size=30), start=st.integers(0, 5))
def test_multi_hot_equals_a_loop(label_sets: list[list[int]], start: int) -> None:
    expected = np.zeros((len(label_sets[start:]), NUM_CLASSES), np.uint8)
    for row, labels in enumerate(label_sets[start:]):
        for k in labels:
            expected[row, k] = 1
    assert np.array_equal(multi_hot_column(pa.array(label_sets, LABELS).slice(start)), expected)


def test_the_ceiling_of_rejected_images() -> None:
    rejects = [Reject(-1, name, f"{name}_red.png", "broken") for name in "abcdefg"]
    check_ceiling("folder", [], 10, on_error="fail", max_rejected=0)
    check_ceiling("folder", rejects, 70, on_error="quarantine", max_rejected=0.1)
    with pytest.raises(InputError, match=r"max_rejected=0\.1"):
        check_ceiling("folder", rejects, 69, on_error="quarantine", max_rejected=0.1)
    with pytest.raises(InputError, match=r"data\.on_error=quarantine"):
        check_ceiling("folder", rejects[:1], 10**6, on_error="fail", max_rejected=1)
    assert problem_lines("folder", rejects[:5])[-1] == "folder/e_red.png: broken"
    assert problem_lines("folder", rejects)[-1] == "folder: and 2 more images like these"
