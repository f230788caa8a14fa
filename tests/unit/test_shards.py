"""The stored form of prepared images: what is written comes back, and what is not known is refused."""

import hashlib
import json
import os
import pickle
import shutil
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_ray import redact, storage
from hpa_ray.channels import STAINS
from hpa_ray.config import DataConfig
from hpa_ray.errors import InputError
from hpa_ray.ingest import ImageSource, prepare
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import open_images
from hpa_ray.schema import MANIFEST_ROW
from hpa_ray.shards import CHUNK_ROWS, ShardSource, encode_shard, open_shards, read_index, write_index
from hpa_ray.shards.seal import is_intact, sealed

ARCHIVE = Path(__file__).parents[1] / "data" / "shards-v1"
ARCHIVED_PIXELS = "67ad92c651d2500bc5ff8a3b48aa57c7c460aa9b9ad6d05e9d878c9856c7fdf6"
ARCHIVED_PIXELS_2 = "4bc11a8aec88a096a62b4845f6398fb6484c4e8d11ed5c9cb6dbc262af47f09e"
ARCHIVED_IDS = [
    "5ce288c1-6aa7-5196-888d-0a302f688f10",
    "1aeb6db9-5089-5bcf-8bcf-78b0671c1710",
    "e448ee08-ca9c-5f02-a8a4-c02b307625e7",
    "d00c7cf9-0372-5a27-8e0b-bcd0492449ca",
    "0002dd9a-247c-5e28-a4d9-6fcc236aeb2f",
    "06e82fba-53a6-545e-a5a6-4678fcc0b0e8",
]
NUM_IMAGES, SIZE = 70, 8


@pytest.fixture(scope="module")
def prepared(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A shard folder of two shards (64 and 6 images) and the pixels that belong in it, from the image files."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "train").mkdir()
    header, *lines = (atlas / "train.csv").read_text().splitlines()
    lines += [f"again-{line}" for line in lines[: NUM_IMAGES - len(lines)]]  # a second shard needs some more images
    (folder / "train.csv").write_text("\n".join([header, *lines]))
    for image_id in (line.split(",")[0] for line in lines):
        for stain in STAINS:
            original = atlas / "train" / f"{image_id.removeprefix('again-')}_{stain}.png"
            (folder / "train" / f"{image_id}_{stain}.png").symlink_to(original)
    images = str(folder / "train")
    manifest = open_images(DataConfig(images=images, labels=str(folder / "train.csv")))
    output = str(folder / "out")
    prepare(manifest, output=output, channels=STAINS, sizes={SIZE: output}, num_workers=0)
    table = open_shards(str(folder / "out"), STAINS)[1]
    return folder / "out", ImageSource((images,), table, STAINS, SIZE).read(np.arange(NUM_IMAGES)).pixels_BCSS


@pytest.fixture
def copy(prepared: tuple[Path, np.ndarray], tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared[0], tmp_path / "copy"))


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the index anew, with a checksum that fits: what is wrong with it must be seen in spite of that."""
    index = json.loads((folder / "index.json").read_text())
    change(index)
    index.pop("checksum", None)
    (folder / "index.json").write_text(json.dumps(sealed(index)))


def write_checksums(folder: Path, pixels: np.ndarray) -> None:
    table = pa.table({"crc32": pa.array([zlib.crc32(image) for image in pixels], pa.uint32())})
    with pa.OSFile(str(folder / "checksums.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    digest = hashlib.sha256((folder / "checksums.arrow").read_bytes()).hexdigest()
    change_index(folder, lambda index: index.update(checksums_sha256=digest))


# what is written comes back


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.integers(0, NUM_IMAGES - 1), max_size=40),
    channels=st.lists(st.sampled_from(STAINS), min_size=1, unique=True),
)
def test_any_rows_and_channels_are_read(
    prepared: tuple[Path, np.ndarray], rows: list[int], channels: list[str]
) -> None:
    folder, pixels = prepared
    source = open_shards(str(folder), tuple(channels))[0]
    images = source.read(np.array(rows, np.int64))
    assert images.pixels_BCSS.dtype == np.uint8
    assert images.rows_B.tolist() == rows
    assert images.rejects == []
    planes = [STAINS.index(stain) for stain in channels]
    assert np.array_equal(images.pixels_BCSS, pixels[rows][:, planes])
    images.pixels_BCSS[:] = 7  # the caller's own copy, not the file
    assert np.array_equal(source.read(np.array(rows, np.int64)).pixels_BCSS, pixels[rows][:, planes])


def test_a_source_survives_pickling(prepared: tuple[Path, np.ndarray]) -> None:
    folder, pixels = prepared
    source = open_shards(str(folder), ("blue", "red"))[0]
    source.read(np.arange(3))  # with files open
    content = pickle.dumps(source)
    assert len(content) < 10_000  # it goes to every worker
    copy = pickle.loads(content)
    assert copy == source
    assert np.array_equal(copy.read(np.arange(66)).pixels_BCSS, pixels[:66, [2, 0]])


def test_an_object_store_reads_the_same(prepared: tuple[Path, np.ndarray]) -> None:
    folder, pixels = prepared
    remote = f"memory://{uuid.uuid4().hex}/shards"
    for path in folder.iterdir():
        storage.write_bytes(storage.join(remote, path.name), path.read_bytes())
    source, table = open_shards(remote, ("yellow", "green"))
    rows = np.random.default_rng(0).permutation(NUM_IMAGES)
    assert np.array_equal(source.read(rows).pixels_BCSS, pixels[rows][:, [3, 1]])
    assert table.equals(open_shards(str(folder), STAINS)[1])


def test_pyarrow_alone_can_read_a_shard(prepared: tuple[Path, np.ndarray]) -> None:
    folder, pixels = prepared
    index, table = read_index(str(folder)), open_shards(str(folder), STAINS)[1]
    assert table.schema == MANIFEST_ROW
    read: list[dict[str, Any]] = []
    for entry in index.shards:
        path = folder / entry.file
        assert path.stat().st_size == entry.bytes
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
        with pa.memory_map(str(path)) as file:
            shard = pa.ipc.open_file(file).read_all()
        assert shard.num_rows == entry.rows
        shard.validate(full=True)
        read += shard.to_pylist()
    assert [row["image_id"] for row in read] == table["image_id"].to_pylist()
    assert b"".join(row["image"] for row in read) == pixels.tobytes()


@settings(deadline=None, max_examples=30)
@given(num_images=st.integers(0, 2 * CHUNK_ROWS + 3), num_channels=st.integers(1, 4), side=st.integers(1, 9))
def test_offsets_point_at_the_pixels(num_images: int, num_channels: int, side: int) -> None:
    shape = (num_images, num_channels, side, side)
    pixels = np.random.default_rng(num_images).integers(0, 256, shape).astype(np.uint8)
    data, offsets = encode_shard([f"image-{k}" for k in range(num_images)], pixels)
    assert len(offsets) == -(-num_images // CHUNK_ROWS)
    found = b""
    for start, offset in zip(range(0, num_images, CHUNK_ROWS), offsets, strict=True):
        found += data.slice(offset, pixels[start : start + CHUNK_ROWS].nbytes).to_pybytes()
    assert found == pixels.tobytes()
    assert pa.ipc.open_file(data).read_all()["image"].to_pylist() == [image.tobytes() for image in pixels]


def test_a_folder_that_was_made_anew_is_read_anew(copy: Path, prepared: tuple[Path, np.ndarray]) -> None:
    """Same names and sizes, other pixels: what an earlier source of this process has mapped must not be given."""
    pixels = prepared[1]
    assert np.array_equal(open_shards(str(copy), STAINS)[0].read(np.arange(64)).pixels_BCSS, pixels[:64])
    index = read_index(str(copy))
    entry = index.shards[0]
    ids = open_shards(str(copy), STAINS)[1]["image_id"].to_pylist()[: entry.rows]
    data, offsets = encode_shard(ids, 255 - pixels[:64])
    assert (data.size, offsets) == (entry.bytes, entry.offsets)
    (copy / entry.file).unlink()
    (copy / entry.file).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    write_checksums(copy, np.concatenate([255 - pixels[:64], pixels[64:]]))
    change_index(copy, lambda index: index["shards"][0].update(sha256=digest))
    assert np.array_equal(open_shards(str(copy), STAINS)[0].read(np.arange(64)).pixels_BCSS, 255 - pixels[:64])


def test_the_archived_folder_of_version_1_still_reads() -> None:
    """Do not write this folder anew: it stands for what users have on their disks."""
    source, table = open_shards(str(ARCHIVE), STAINS)
    assert source.index.version == 1
    assert table["image_id"].to_pylist() == ARCHIVED_IDS
    pixels = source.read(np.arange(table.num_rows)).pixels_BCSS
    assert pixels.shape == (len(ARCHIVED_IDS), 4, 8, 8)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == ARCHIVED_PIXELS
    backwards = open_shards(str(ARCHIVE), ("yellow", "green"))[0].read(np.arange(table.num_rows)[::-1]).pixels_BCSS
    assert np.array_equal(backwards, pixels[::-1][:, [3, 1]])
    labels = table["labels"].combine_chunks().flatten().to_numpy()
    assert np.bincount(labels, minlength=NUM_CLASSES).tolist() == list(source.index.class_counts)


def test_the_archived_folder_of_version_2_still_reads() -> None:
    """As above; it holds images of two sources."""
    source, table = open_shards(str(ARCHIVE.with_name("shards-v2")), STAINS)
    assert source.index.version == 2
    assert table["source"].to_pylist() == [0, 1, 1, 0, 1, 0, 0]
    sources = [(entry.name, entry.num_images) for entry in source.index.sources]
    assert sources == [("first/train", 4), ("second/train", 3)]
    pixels = source.read(np.arange(7)).pixels_BCSS
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == ARCHIVED_PIXELS_2
    for number, entry in enumerate(source.index.sources):
        own = pixels[np.array(table["source"].to_pylist()) == number] / 255
        assert np.allclose(entry.mean, own.mean(axis=(0, 2, 3)))
        assert np.allclose(entry.std, own.std(axis=(0, 2, 3)))


def test_the_archived_folder_of_version_3_still_reads() -> None:
    """As above, with checksums; the images are those of version 2."""
    source, table = open_shards(str(ARCHIVE.with_name("shards-v3")), STAINS)
    assert source.index.version == 3
    pixels = source.read(np.arange(table.num_rows)).pixels_BCSS
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == ARCHIVED_PIXELS_2


def test_what_is_hidden_when_the_index_is_written_is_no_damage(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may have the name of a key: write_json leaves it out, and the checksum is of what stands in the file."""
    index = read_index(str(copy))
    named = index.sources[0].model_copy(update={"name": "hpa-secret-bucket/train"})
    monkeypatch.setattr(redact, "_hidden", frozenset({"hpa-secret-bucket"}))
    written = write_index(str(copy), index.model_copy(update={"sources": (named,)}))
    assert written == read_index(str(copy))
    assert written.sources[0].name == ".../train"


# what is not known is refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "hpa-ray-model"),
        ("version", 0),
        ("version", 4),
        ("vocabulary", "hpa-35"),
        ("stain_order", "hpa-bgry"),
        ("image_size", 0),
        ("image_size", "large"),
        ("num_images", -1),
        ("num_images", NUM_IMAGES + 1),
        ("channels", ["red", "green", "blue", "pink"]),
        ("channels", ["red", "red", "blue", "yellow"]),
        ("channels", ["red", "green"]),
        ("mean", [0.1]),
        ("class_counts", [1, 2]),
        ("chunk_rows", 32),
        ("shards", []),
        ("pixels", "other field"),
    ],
)
def test_an_index_of_something_else_is_refused(copy: Path, field: str, value: Any) -> None:
    change_index(copy, lambda index: index.update({field: value}))
    advice = "update the program" if (field, value) == ("version", 4) else "prepare again"
    with pytest.raises(InputError, match=rf"index\.json: .* - .*{advice}$"):
        read_index(str(copy))


def test_every_field_of_the_index_is_needed(copy: Path) -> None:
    content = (copy / "index.json").read_text()
    index = json.loads(content)
    assert len(index) > 10
    for holder in (index, index["shards"][1]):
        for field in list(holder):
            value = holder.pop(field)
            (copy / "index.json").write_text(json.dumps(index))
            with pytest.raises(InputError, match=field):
                read_index(str(copy))
            holder[field] = value
    assert is_intact(index)  # whatever the order of the fields
    (copy / "index.json").write_text(json.dumps(index, indent=7))
    assert read_index(str(copy)).num_images == NUM_IMAGES


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../../secret.arrow"},
        {"file": "/etc/passwd"},
        {"sha256": "x"},
        {"rows": 63},
        {"offsets": []},
        {"offsets": [-1]},
        {"offsets": [10**9]},
    ],
)
def test_an_entry_that_points_elsewhere_is_refused(copy: Path, change: dict[str, Any]) -> None:
    change_index(copy, lambda index: index["shards"][0].update(change))
    with pytest.raises(InputError, match=r"index\.json"):
        open_shards(str(copy), STAINS)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\x80\x04\x95", b'{"version": 1}'])
def test_a_file_that_is_no_index_is_refused(copy: Path, content: bytes) -> None:
    (copy / "index.json").write_bytes(content)
    with pytest.raises(InputError, match=r"index\.json"):
        read_index(str(copy))


def test_an_unfinished_folder_is_refused(copy: Path) -> None:
    (copy / "index.json").unlink()
    with pytest.raises(InputError, match="did not finish"):
        open_shards(str(copy), STAINS)


def test_a_stain_that_is_not_stored_is_named(tmp_path: Path, prepared: tuple[Path, np.ndarray]) -> None:
    images = prepared[0].parent / "train"
    output = str(tmp_path / "two")
    manifest = open_images(DataConfig(images=str(images)))
    prepare(manifest, output=output, channels=("green", "red"), sizes={4: output}, num_workers=0)
    assert open_shards(output, ("green", "red"))[0].index.channels == ("red", "green")
    with pytest.raises(InputError, match=r"asks for blue.*holds red, green"):
        open_shards(output, ("red", "blue"))


@pytest.mark.parametrize("damage", ["missing", "short", "long"])
def test_a_shard_that_is_not_as_it_was_written_is_named(copy: Path, damage: str) -> None:
    path = copy / "shard-00001.arrow"
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size + (1 if damage == "long" else -1))
    with pytest.raises(InputError, match=r"shard-00001\.arrow"):
        open_shards(str(copy), STAINS)
    source = ShardSource(str(copy), read_index(str(copy)), STAINS)  # it may also happen after the folder was opened
    with pytest.raises(InputError, match=r"shard-00001\.arrow"):
        source.read(np.arange(NUM_IMAGES))


def test_a_manifest_that_does_not_fit_is_refused(copy: Path) -> None:
    path = copy / "manifest.arrow"
    content = path.read_bytes()
    table = pa.ipc.open_file(content).read_all()
    for wrong in (table.slice(1), table.select([0, 1]), table.rename_columns(["a", "b", "c", "d"])):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, wrong.schema) as writer:
            writer.write_table(wrong)
        with pytest.raises(InputError, match=r"manifest\.arrow: does not fit"):
            open_shards(str(copy), STAINS)
    for damaged in (b"", content[:-10], b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"manifest\.arrow"):
            open_shards(str(copy), STAINS)
