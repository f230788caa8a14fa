"""One behaviour for a local folder and an object store: whole files, listings, random access, URIs."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpa_ray.errors import InputError
from hpa_ray.storage import (
    absolute,
    exists,
    free_bytes,
    is_local,
    join,
    list_files,
    open_random_access,
    read_bytes,
    remove,
    remove_empty_folder,
    write_bytes,
    write_json,
    write_parquet,
)

NAME = st.text("abcXYZ019_.-", min_size=1, max_size=8).filter(lambda name: name.strip("."))


@pytest.fixture(params=["local", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that does not exist yet."""
    return {
        "local": str(tmp_path / "a" / "b"),
        "file": f"file://{tmp_path}/a/b",
        "memory": f"memory://{uuid.uuid4().hex}/a/b",
    }[request.param]


def test_what_is_written_is_read(folder: str) -> None:
    uri = join(folder, "deep", "x.bin")
    assert not exists(uri)
    for data in (b"first", b"", bytes(range(256)) * 300, pa.py_buffer(b"a buffer")):
        write_bytes(uri, data)  # the second and later ones replace a file
        assert read_bytes(uri) == bytes(data)
        assert list_files(join(folder, "deep")) == {"x.bin": len(data)}
    assert exists(uri)
    assert exists(join(folder, "deep"))


def test_a_failing_write_leaves_neither_file_nor_temporary(folder: str) -> None:
    write_bytes(join(folder, "other"), b"1")
    with pytest.raises(TypeError):
        write_bytes(join(folder, "x"), "text is not bytes")  # type: ignore[arg-type]
    assert list_files(folder) == {"other": 1}


def test_a_failing_write_leaves_the_file_that_was_there(folder: str) -> None:
    write_bytes(join(folder, "x"), b"good")
    with pytest.raises(TypeError):
        write_bytes(join(folder, "x"), ["not", "bytes"])  # type: ignore[arg-type]
    assert list_files(folder) == {"x": 4}
    assert read_bytes(join(folder, "x")) == b"good"


def test_a_local_write_that_can_not_be_renamed_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError):
        write_bytes(str(tmp_path / "x"), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_json_is_refused_before_the_file_is_touched(folder: str) -> None:
    uri = join(folder, "x.json")
    write_json(uri, {"a": [1, 2.5, None, "é"]})
    before = read_bytes(uri)
    for value in ({"loss": float("nan")}, {"a": {1, 2}}):
        with pytest.raises((ValueError, TypeError)):
            write_json(uri, value)
    assert read_bytes(uri) == before
    assert before.endswith(b"\n")


def test_a_listing_has_files_and_no_folders(folder: str) -> None:
    for name, size in (("b.png", 3), ("a.png", 0), ("sub/c.png", 7)):
        write_bytes(join(folder, name), bytes(size))
    assert list_files(folder) == {"a.png": 0, "b.png": 3}
    assert list_files(folder + "/") == {"a.png": 0, "b.png": 3}


def test_a_listing_of_what_is_no_folder(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        list_files(join(folder, "none"))
    write_bytes(join(folder, "x"), b"1")
    with pytest.raises(NotADirectoryError):
        list_files(join(folder, "x"))


def test_a_missing_file_is_named_as_such(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(join(folder, "none"))
    with pytest.raises(FileNotFoundError):
        open_random_access(join(folder, "none"))


def test_ranges_are_read(folder: str) -> None:
    data = os.urandom(10_000)
    write_bytes(join(folder, "x"), data)
    with open_random_access(join(folder, "x")) as file:
        assert file.size() == len(data)
        for start, length in ((9_000, 1_000), (0, 1), (123, 4567), (9_999, 1)):
            assert file.read_at(length, start) == data[start : start + length]


def test_parquet_round_trip(folder: str) -> None:
    table = pa.table({"id": ["a", "b"], "labels": pa.array([[1, 2], None], pa.list_(pa.int8()))})
    write_parquet(join(folder, "x.parquet"), table)
    with open_random_access(join(folder, "x.parquet")) as file:
        assert pq.read_table(file).equals(table)


def test_remove_takes_files_that_are_gone_already(folder: str) -> None:
    uris = [join(folder, name) for name in ("x", "y")]
    for uri in uris:
        write_bytes(uri, b"1")
    write_bytes(join(folder, "z"), b"1")
    remove([*uris, join(folder, "none"), uris[0]])
    assert list_files(folder) == {"z": 1}


def test_only_an_empty_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    remove_empty_folder(str(tmp_path / "empty"))
    remove_empty_folder(str(tmp_path / "none"))
    with pytest.raises(OSError):
        remove_empty_folder(str(tmp_path / "full"))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_free_space_is_that_of_the_disk_below(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "not" / "there" / "yet", tmp_path / "file" / "below"):
        free = free_bytes(str(path))
        assert free is not None
        stats = os.statvfs(tmp_path)
        assert 0 < free <= stats.f_blocks * stats.f_frsize
    assert free_bytes("memory://bucket") is None


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.chdir(tmp_path)
    assert absolute("~/data") == "/home/ada/data"
    assert absolute("data/../x/") == f"{tmp_path}/x"
    assert absolute("file:///data//set/") == "/data/set"
    assert absolute("/data?x") == "/data?x"
    assert absolute("s3://bucket/set//") == "s3://bucket/set"
    assert absolute("memory://") == "memory://"
    assert absolute("s3://bucket/set/?region=a/b/") == "s3://bucket/set?region=a/b/"


def test_join() -> None:
    assert join("/", "x") == "/x"
    assert join("/data/", "a", "x") == "/data/a/x"
    assert join("file:///", "x") == "file:///x"
    assert join("what?/", "x") == "what?/x"
    assert join("s3://bucket", "x") == "s3://bucket/x"
    assert join("s3://bucket/set/?region=eu-north-1", "a", "x") == "s3://bucket/set/a/x?region=eu-north-1"
    assert join("https://host/set?signature=abc", "x") == "https://host/set/x?signature=abc"


@given(
    base=st.sampled_from(["/data", "rel", "memory://b", "s3://b/p?region=x", "gs://b?anonymous=true"]),
    names=st.lists(NAME),
)
def test_joining_at_once_or_one_by_one_is_the_same(base: str, names: list[str]) -> None:
    one_by_one = base
    for name in names:
        one_by_one = join(one_by_one, name)
    assert join(base, *names) == one_by_one
    assert is_local(one_by_one) == is_local(base)
    assert absolute(absolute(base)) == absolute(base)


def test_the_root_of_a_store_is_a_folder() -> None:
    name = uuid.uuid4().hex
    write_bytes(join("memory://", name), b"1")
    assert list_files("memory://")[name] == 1
    assert read_bytes(f"memory://{name}") == b"1"
    assert not Path("memory:").exists()


@pytest.mark.parametrize("use", [read_bytes, exists, list_files, open_random_access])
def test_an_unknown_scheme_is_the_users_mistake(use: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match="no access to nosuch://"):
        use("nosuch://bucket/x")
    with pytest.raises(InputError, match="nosuch://bucket/x"):
        write_bytes("nosuch://bucket/x", b"")
