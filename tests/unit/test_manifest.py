"""Label tables and folders -> the manifest: every usable image once, in order; every other one with a reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_ray.channels import STAINS
from hpa_ray.config import DataConfig
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import (
    Folder,
    LabelTable,
    Manifest,
    build_manifest,
    check_ceiling,
    folder_of,
    join_tables,
    list_folder,
    multi_hot_column,
    open_images,
    problem_lines,
    read_group_table,
)
from hpa_ray.manifest.join import label_lists, label_masks
from hpa_ray.schema import LABELS, MANIFEST_ROW, Reject

IDS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.\-]{0,12}\Z")
LABEL_SETS = st.sets(st.integers(0, NUM_CLASSES - 1), max_size=5).map(sorted)


# folders


def stains_by_id(folder: Folder) -> dict[str, dict[str, list[str]]]:
    return {image_id: folder.stains_of(row) for row, image_id in enumerate(folder.image_ids.to_pylist())}


def test_a_folder_is_read_by_its_names(tmp_path: Path) -> None:
    names = [
        "a_red.png",
        "a_green.PNG",
        "a_b_blue.jpg",
        "x_green.bmp",
        "a_pink.png",
        "notes.txt",
        "_red.png",
        "a_red.png.bak",
    ]
    for size, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "b_red.png").mkdir()
    folder = list_folder(str(tmp_path))
    assert stains_by_id(folder) == {"a": {"red": ["png"], "green": ["PNG"]}, "a_b": {"blue": ["jpg"]}}
    assert (folder.num_files, folder.num_bytes) == (len(names), sum(range(len(names))))
    assert folder.other_files == sorted(["x_green.bmp", "a_pink.png", "notes.txt", "_red.png", "a_red.png.bak"])


@given(names=st.lists(st.sampled_from(["png", "PNG", "tif", "jpg", "JPG", "jpeg"]), min_size=1, unique=True))
def test_of_several_versions_one_is_taken_whatever_their_order(names: list[str]) -> None:
    """An object store lists by name, a disk in any order."""
    folder = folder_of("", {f"a_{stain}.{extension}": 1 for extension in names for stain in STAINS})
    preferred = ["png", "PNG", "tif", "jpg", "JPG", "jpeg"]
    assert folder.extensions == tuple(sorted(names, key=preferred.index))
    assert folder.complete(STAINS).tolist() == [0]


def test_a_complete_version_goes_before_a_preferred_one() -> None:
    files = ["a_red.png", "a_red.jpg", "a_green.jpg", "b_red.tif", "b_green.tif", "c_green.png"]
    folder = folder_of("", dict.fromkeys(files, 1))
    table, rejects, _ = build_manifest(folder, None, ["red", "green"])
    found = dict(zip(table["image_id"].to_pylist(), table["extension"].to_pylist(), strict=True))
    assert found == {"a": "jpg", "b": "tif"}
    assert [reject.file for reject in rejects] == ["c_red.png"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_folder(str(tmp_path / "none"))
    with pytest.raises(InputError, match="it holds no files"):
        list_folder(str(tmp_path))
    (tmp_path / "x.bmp").touch()
    with pytest.raises(InputError, match=r"its 1 files look like 'x\.bmp'"):
        list_folder(str(tmp_path))
    with pytest.raises(InputError, match="is a file"):
        list_folder(str(tmp_path / "x.bmp"))


# manifest


def listing(files: dict[str, dict[str, str]]) -> Folder:
    """Image id -> stain -> extension, as a folder."""
    names = [f"{name}_{stain}.{extension}" for name, some in files.items() for stain, extension in some.items()]
    return folder_of("folder", dict.fromkeys(names, 1))


def label_table(labels: dict[str, list[int]]) -> LabelTable:
    return LabelTable(pa.array(list(labels), pa.string()), pa.array(list(labels.values()), LABELS), [])


@st.composite
def files_and_labels(draw: st.DrawFn) -> tuple[dict[str, dict[str, str]], dict[str, list[int]]]:
    stains = st.dictionaries(st.sampled_from(STAINS), st.sampled_from(["png", "png", "png", "PNG"]), min_size=1)
    full = st.just(dict.fromkeys(STAINS, "png"))
    files = draw(st.dictionaries(IDS, full | stains, min_size=1, max_size=12))
    return files, draw(st.dictionaries(st.sampled_from(sorted(files)) | IDS, LABEL_SETS, max_size=12))


@settings(deadline=None)
@given(data=files_and_labels(), channels=st.lists(st.sampled_from(STAINS), min_size=1, max_size=4, unique=True))
def test_every_labelled_image_is_a_row_or_a_reject(
    data: tuple[dict[str, dict[str, str]], dict[str, list[int]]], channels: list[str]
) -> None:
    files, known = data
    table, rejects, unlabelled = build_manifest(listing(files), label_table(known), channels)
    assert table.schema == MANIFEST_ROW
    usable = {
        image_id: files[image_id][channels[0]]
        for image_id in known
        if len({files.get(image_id, {}).get(stain) for stain in channels} | {None}) == 2
        and all(stain in files[image_id] for stain in channels)
    }
    ids = table["image_id"].to_pylist()
    assert ids == sorted(usable)
    assert table["extension"].to_pylist() == [usable[image_id] for image_id in ids]
    assert table["labels"].to_pylist() == [known[image_id] for image_id in ids]
    assert set(table["source"].to_pylist()) <= {0}
    assert [reject.image_id for reject in rejects] == sorted(known.keys() - usable.keys())
    assert sorted(unlabelled) == sorted(files.keys() - known.keys())
    targets = Manifest(table, [], ("",), []).targets()
    assert targets.dtype == np.uint8
    assert [np.flatnonzero(row).tolist() for row in targets] == [known[image_id] for image_id in ids]


def test_without_labels_every_image_is_taken() -> None:
    full = dict.fromkeys(STAINS, "png")
    table, rejects, unlabelled = build_manifest(listing({"b": full, "a": full, "c": {"red": "png"}}), None, STAINS)
    assert table["image_id"].to_pylist() == ["a", "b"]
    assert table["labels"].null_count == 2
    assert table.schema == MANIFEST_ROW
    assert [reject.image_id for reject in rejects] == ["c"]
    assert unlabelled == []


FILES = {
    "few": {"red": "png"},
    "mixed": {"red": "png", "green": "PNG", "blue": "png", "yellow": "png"},
    "good": dict.fromkeys(STAINS, "png"),
}


def test_a_reject_says_why() -> None:
    labels = label_table({name: [0] for name in ("good", "few", "mixed", "none")})
    table, rejects, _ = build_manifest(listing(FILES), labels, STAINS)
    assert table["image_id"].to_pylist() == ["good"]
    assert rejects == [
        Reject(-1, "few", "few_green.png", "missing: green, blue, yellow plane"),
        Reject(-1, "mixed", "mixed_red.png", "planes in different formats: PNG, png"),
        Reject(-1, "none", "none_red.png", "no image files"),
    ]
    assert build_manifest(listing(FILES), labels, ["red"])[0].num_rows == 3


def test_a_further_source_need_not_have_all_that_its_table_lists() -> None:
    labels = label_table({name: [0] for name in ("good", "few", "none")})
    table, rejects, _ = build_manifest(listing(FILES), labels, STAINS, source=1)
    assert table["source"].to_pylist() == [1]
    assert rejects == [Reject(-1, "few", "folder/few_green.png", "missing: green, blue, yellow plane")]
    assert problem_lines("elsewhere", rejects) == ["folder/few_green.png: missing: green, blue, yellow plane"]


# several sources


def rows_of(source: int, labels: dict[str, list[int]]) -> pa.Table:
    folder = listing({image_id: dict.fromkeys(STAINS, ["png", "jpg"][source]) for image_id in labels})
    return build_manifest(folder, label_table(labels), STAINS, source=source)[0]


def as_dict(table: pa.Table) -> dict[str, tuple[int, str, list[int]]]:
    assert table["image_id"].to_pylist() == sorted(table["image_id"].to_pylist())
    return {row["image_id"]: (row["source"], row["extension"], row["labels"]) for row in table.to_pylist()}


TWO = ({"a": [1], "b": [2], "c": [3]}, {"b": [2], "c": [4, 5], "d": [6]})


@pytest.mark.parametrize(
    ("conflict", "c"),
    [("first", (0, "png", [3])), ("union", (0, "png", [3, 4, 5])), ("drop", None)],
)
def test_the_same_id_in_two_sources_comes_in_once(conflict: str, c: tuple[int, str, list[int]] | None) -> None:
    table, notes = join_tables([rows_of(0, TWO[0]), rows_of(1, TWO[1])], None, conflict)
    assert table.schema == MANIFEST_ROW
    expected = {"a": (0, "png", [1]), "b": (0, "png", [2]), "c": c, "d": (1, "jpg", [6])}
    assert as_dict(table) == {name: row for name, row in expected.items() if row is not None}
    (note,) = notes
    assert note.startswith("2 images are in more than one source")
    assert "labels of 1 differ" in note


@pytest.mark.parametrize(
    ("conflict", "expected"),
    [
        ("first", {"a": [1], "b": [2], "c": [3]}),
        ("union", {"a": [1, 2, 6], "b": [1, 2, 6], "c": [3]}),
        ("drop", {"c": [3]}),
    ],
)
def test_near_duplicates_in_two_sources_come_in_from_the_first(
    tmp_path: Path, conflict: str, expected: dict[str, list[int]]
) -> None:
    """a, b and d show the same cells; two of them are of the first source."""
    (tmp_path / "groups.csv").write_text("Id,group\na,a\nb,a\nd,a\n")
    groups = read_group_table(str(tmp_path / "groups.csv"))
    first = rows_of(0, {"a": [1], "b": [2], "c": [3]})
    table, _ = join_tables([first, rows_of(1, {"d": [6]})], groups, conflict)
    assert {name: row[2] for name, row in as_dict(table).items()} == expected


def test_without_shared_images_nothing_changes() -> None:
    table, notes = join_tables([rows_of(0, {"b": [1], "a": [2, 3]}), rows_of(1, {"aa": [0]})], None, "drop")
    assert as_dict(table) == {"a": (0, "png", [2, 3]), "aa": (1, "jpg", [0]), "b": (0, "png", [1])}
    assert notes == []


@given(masks=st.lists(st.integers(0, 2**NUM_CLASSES - 1), max_size=30))
def test_label_masks_come_back(masks: list[int]) -> None:
    assert label_masks(label_lists(np.array(masks, np.uint32))).tolist() == masks


def test_sources_are_opened_by_their_names(tmp_path: Path, gray_png: Callable[..., bytes]) -> None:
    for name, ids in (("one", "ab"), ("two", "bc"), ("three", "d")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "labels.csv").write_text("Id,Target\n" + "".join(f"{i},{len(name)}\n" for i in ids))
        for image_id in ids:
            for stain in STAINS:
                (tmp_path / name / f"{image_id}_{stain}.png").write_bytes(gray_png(8))
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    (tmp_path / "three" / "labels.csv").rename(tmp_path / "other.csv")
    extra = (two, f"{three}@{tmp_path}/other.csv")
    manifest = open_images(DataConfig(images=one, labels=f"{one}/labels.csv", extra=extra))
    assert manifest.folders == (one, two, three)
    assert manifest.table["image_id"].to_pylist() == list("abcd")
    assert manifest.table["source"].to_pylist() == [0, 0, 1, 2]
    assert manifest.table["labels"].to_pylist() == [[3], [3], [3], [5]]
    with pytest.raises(InputError, match="more than once"):
        open_images(DataConfig(images=one, labels=f"{one}/labels.csv", extra=(one,)))
    with pytest.raises(InputError, match=r"three: no labels\.csv in it"):
        open_images(DataConfig(images=one, labels=f"{one}/labels.csv", extra=(three,)))


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
