"""Shard folders that are damaged, unknown, unfinished or of something else: not taken for whole, not overwritten."""

import json
import shutil
from pathlib import Path

import pytest
from bad_data import FUZZ, Data, born_model, call, done, files_below, first_images, prepared, refused, training
from hypothesis import given
from hypothesis import strategies as st

VERSION_1 = Path(__file__).parents[1] / "data" / "shards-v1"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return born_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shards(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not change them."""
    return prepared(atlas, tmp_path_factory.mktemp("whole") / "shards")


@pytest.fixture
def data(atlas: Path, tmp_path: Path) -> Data:
    return first_images(atlas, tmp_path, 12)


def edit_index(shards: Path, **changes: object) -> None:
    index = json.loads((shards / "index.json").read_text()) | changes
    (shards / "index.json").write_text(json.dumps({key: value for key, value in index.items() if value is not None}))


def damage(shards: Path, how: str) -> str:
    """Damage a shard folder; returns how the told line begins, after the folder."""
    index = shards / "index.json"
    shard = sorted(shards.glob("shard-*.arrow"))[0]
    size = shard.stat().st_size
    if how == "no index":
        index.unlink()
        return f"data.shards = {shards}: no index.json - not a shard folder, or `hpa-ray prepare` did not finish; "
    if how == "no folder":
        shutil.rmtree(shards)
        return f"data.shards = {shards}: no index.json - "
    if how == "no json":
        index.write_bytes(index.read_bytes()[:100])
        return f"{index}: not an index of this version (: Invalid JSON: "
    if how == "not ours":
        index.write_text("{}")
        return f"{index}: not an index of this version (format: Field required) - prepare again"
    if how == "version":
        edit_index(shards, version=4)
        return f"{index}: version is 4, this program reads 1, 2 and 3 - update the program"
    if how == "vocabulary":
        edit_index(shards, vocabulary="other-35")
        return f"{index}: vocabulary is 'other-35', this program reads 'hpa-28' - prepare again"
    if how == "white level":
        edit_index(shards, white_level=None)
        return f"{index}: not an index of this version (white_level: Field required) - prepare again"
    if how == "mean":
        edit_index(shards, mean=[0.1])
        return f"{index}: its numbers contradict each other - delete the folder and prepare again"
    if how == "sources":
        edit_index(shards, sources=json.loads(index.read_text())["sources"] * 2)
        return f"{index}: its numbers contradict each other - delete the folder and prepare again"
    if how == "channels":
        edit_index(shards, channels=["red", "pink", "blue", "yellow"])
        return f"{index}: its numbers contradict each other - delete the folder and prepare again"
    if how == "short shard":
        shard.write_bytes(shard.read_bytes()[:-64])
        return f"{shard}: {size - 64:,} bytes, the index says {size:,} bytes (1 of 1 shards are damaged) - delete the"
    if how == "empty shard":
        shard.write_bytes(b"")
        return f"{shard}: 0 bytes, the index says {size:,} bytes (1 of 1 shards are damaged) - delete the folder and"
    if how == "no shard":
        shard.unlink()
        return f"{shard}: it is missing, the index says {size:,} bytes (1 of 1 shards are damaged) - delete the folder"
    if how == "no manifest":
        (shards / "manifest.arrow").unlink()
        return f"{shards}/manifest.arrow: cannot be read ("
    if how == "other manifest":
        shutil.copy(VERSION_1 / "manifest.arrow", shards)
        return f"{shards}/manifest.arrow: does not fit the index beside it - delete the folder and prepare again"
    assert how == "manifest"
    (shards / "manifest.arrow").write_bytes(b"ARROW1")
    return f"{shards}/manifest.arrow: does not fit the index beside it - delete the folder and prepare again"


DAMAGES = ["no index", "no folder", "no json", "not ours", "version", "vocabulary", "white level", "mean", "sources"]
DAMAGES += ["channels", "short shard", "empty shard", "no shard", "no manifest", "other manifest", "manifest"]


@pytest.mark.parametrize("how", DAMAGES)
def test_shards_that_can_not_be_read(how: str, shards: Path, model_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    beginning = damage(copy, how)
    for words in (
        ("train", *training(tmp_path)),
        ("explore", f"explore.output={tmp_path}/explored"),
        ("duplicates", f"duplicates.output={tmp_path}/doubles", "duplicates.num_workers=0"),
        ("predict", f"predict.run={model_file}", f"predict.output={tmp_path}/predicted"),
    ):
        (told,) = refused(*words, f"data.shards={copy}")
        assert told.startswith(beginning)
    assert not any((tmp_path / name).exists() for name in ("predicted", "explored", "doubles", "runs"))


@pytest.mark.parametrize("how", ["no json", "version", "short shard", "no shard"])
def test_prepare_does_not_take_damaged_shards_for_whole(how: str, atlas: Path, shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    words = ("prepare", f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32")
    words = (*words, "prepare.num_workers=0", f"prepare.output={copy}")
    beginning = damage(copy, how)
    before = files_below(copy)
    (told,) = refused(*words)
    assert told.startswith(beginning)
    assert files_below(copy) == before
    shutil.rmtree(copy)
    done(*words)


def test_a_folder_that_is_not_for_these_shards(data: Data) -> None:
    data.shards.mkdir()
    (data.shards / "notes\x1b.txt").write_text("x")
    assert refused(*data.command("prepare")) == [
        f"prepare.output = {data.shards}: holds other files ('notes\\x1b.txt') - give an empty or new folder"
    ]
    (data.shards / "notes\x1b.txt").unlink()
    done(*data.command("prepare"))
    before = files_below(data.shards)
    for other in ("data.channels=green", "data.white_level=4095", "prepare.seed=1", "data.image_size=16"):
        assert refused(*data.command("prepare", other)) == [
            f"{data.shards}: holds shards of other images or settings - choose another folder or delete it"
        ]
    assert files_below(data.shards) == before
    (data.shards / "index.json").unlink()
    for path in data.shards.glob("*"):
        path.unlink()
    for plan in (b"", b"[]", b"{", b'{"fingerprint": "x"}'):
        (data.shards / "plan.json").write_bytes(plan)
        assert refused(*data.command("prepare")) == [
            f"{data.shards}: holds an unfinished prepare of other images or settings - choose another folder or "
            "delete it"
        ]


def test_shards_of_an_earlier_version_are_not_overwritten(data: Data) -> None:
    shutil.copytree(VERSION_1, data.shards)
    before = files_below(data.shards)
    assert refused(*data.command("prepare")) == [
        f"{data.shards}: holds shards of other images or settings - choose another folder or delete it"
    ]
    assert files_below(data.shards) == before


def test_several_sizes_of_which_one_is_in_the_way(data: Data) -> None:
    words = data.command("prepare", "prepare.sizes=32,16,16")
    small, large = data.shards / "16px", data.shards / "32px"
    small.mkdir(parents=True)
    (small / "notes.txt").write_text("x")
    assert refused(*words) == [
        f"prepare.output = {small}: holds other files ('notes.txt') - give an empty or new folder"
    ]
    assert [path.name for path in files_below(data.shards)] == ["notes.txt"]
    (small / "notes.txt").unlink()
    done(*words)
    finished = files_below(data.shards)
    shard = large / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-64])
    (told,) = refused(*words)
    assert told.startswith(f"{shard}: ")
    assert {path for path, content in files_below(data.shards).items() if content != finished[path]} == {shard}
    (told,) = refused("train", f"data.shards={data.shards}", *training(data.root))
    assert told.startswith(f"data.shards = {data.shards}: no index.json - ")


def test_stains_that_the_shards_do_not_hold(data: Data) -> None:
    done(*data.command("prepare", "data.channels=green,blue"))
    assert refused("train", f"data.shards={data.shards}", *training(data.root)) == [
        f"data.channels asks for red, yellow, but {data.shards} holds green, blue: prepare again"
    ]


@FUZZ
@given(st.binary(max_size=60), st.integers(0, 2000), st.binary(max_size=3))
def test_any_bytes_as_an_index(shards: Path, tmp_path: Path, content: bytes, at: int, change: bytes) -> None:
    if not (tmp_path / "shards").exists():
        shutil.copytree(shards, tmp_path / "shards")
    good = (shards / "index.json").read_bytes()
    at = at % len(good)
    for text in (content, good[:at] + change + good[at + len(change) :]):
        (tmp_path / "shards" / "index.json").write_bytes(text)
        code, _, told = call("train", f"data.shards={tmp_path}/shards", *training(tmp_path), "split.parts=1/1")
        assert code == 2
        assert len(told) == 1
