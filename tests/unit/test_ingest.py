"""Image files -> pixels -> shards: decoding is exact or refused, and a stopped `prepare` ends as an undisturbed one."""

import hashlib
import io
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpa_ray import storage
from hpa_ray.channels import STAINS
from hpa_ray.config import DataConfig
from hpa_ray.errors import InputError
from hpa_ray.ingest import ImageSource, prepare, reader
from hpa_ray.ingest.decode import DecodeError, decode_plane
from hpa_ray.ingest.plan import plan
from hpa_ray.ingest.prepare import _ShardTask
from hpa_ray.ingest.stack import check_shapes, resize_plane
from hpa_ray.ingest.tasks import run_tasks
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import Manifest, open_images
from hpa_ray.schema import LABELS, MANIFEST_ROW, Reject
from hpa_ray.shards import ShardIndex, open_shards

# H, W sides of a plane in px


def png_bytes(plane: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(plane).save(buffer, "PNG")
    return buffer.getvalue()


# stack


@settings(deadline=None, max_examples=100)
@given(size=st.integers(1, 12), factor=st.integers(2, 20), seed=st.integers(0, 10**6), high=st.sampled_from([2, 256]))
def test_a_whole_factor_gives_rounded_block_means(size: int, factor: int, seed: int, high: int) -> None:
    plane = np.random.default_rng(seed).integers(0, high, (size * factor,) * 2).astype(np.uint8)
    resized = resize_plane(plane, size)
    num = factor**2
    sums = plane.reshape(size, factor, size, factor).sum(axis=(1, 3), dtype=int)
    if factor in (2, 4, 8, 16):
        assert np.array_equal(resized, (2 * sums + num) // (2 * num))  # half up
    else:  # Pillow multiplies by a rounded 1 / num: the nearest value, but for means that are all but half way
        assert np.abs(resized - sums / num).max() <= 0.5 + 1 / (2 * num) + 255 * num / 2**24


@settings(deadline=None, max_examples=100)
@given(side=st.integers(1, 60), size=st.integers(1, 60), low=st.integers(0, 255), seed=st.integers(0, 10**6))
def test_a_resize_keeps_the_range_of_values(side: int, size: int, low: int, seed: int) -> None:
    high = np.random.default_rng(seed).integers(low, 256)
    plane = np.random.default_rng(seed).integers(low, high + 1, (side, side)).astype(np.uint8)
    resized = resize_plane(plane, size)
    assert resized.shape == (size, size)
    assert resized.dtype == np.uint8
    assert plane.min() <= resized.min()
    assert resized.max() <= plane.max()
    if side == size:
        assert np.array_equal(resized, plane)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 30), more=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_any_other_factor_averages_every_pixel_once(size: int, more: int, seed: int) -> None:
    side = size + more
    plane = np.random.default_rng(seed).integers(0, 256, (side, side)).astype(np.uint8)
    at = ((np.arange(side) + 0.5) * size / side).astype(int)  # the new pixel in which each old one has its centre
    sums, counts = np.zeros((size, size)), np.zeros((size, size))
    np.add.at(sums, (at[:, None], at), plane)
    np.add.at(counts, (at[:, None], at), 1)
    centres = (np.arange(side) + 0.5) * size / side
    if np.abs(centres - centres.round()).min() > 1e-9:  # else a centre on a border belongs to either side
        assert np.abs(resize_plane(plane, size) - sums / counts).max() <= 1.01  # rows and columns are rounded in turn


def test_planes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DecodeError, match=r"planes of different sizes: 8 x 8 px, 9 x 9 px"):
        check_shapes([(8, 8), (9, 9)])
    with pytest.raises(DecodeError, match="10 x 8 px, expected a square"):
        check_shapes([(8, 10)])


def test_real_images_keep_their_brightness(real_data: Path) -> None:
    sides = set()
    for path in sorted((real_data / "images").glob("*_green.png")):
        plane = decode_plane(path.read_bytes(), "green").pixels
        with Image.open(path) as image:
            assert np.array_equal(plane, np.asarray(image))
        sides.add(plane.shape[0])
        for size in (512, 96):
            assert abs(resize_plane(plane, size).mean() - plane.mean()) < 0.5, (path.name, size)
    assert len(sides) > 1


# reader


def write_planes(folder: str, num_images: int, *, side: int = 12) -> Manifest:
    """Images of noise, written as PNGs; image k is named i<k> and has the labels {k % 28, k % 5}."""
    rng = np.random.default_rng(0)
    ids = [f"i{k:03d}" for k in range(num_images)]
    for image_id in ids:
        for stain in STAINS:
            plane = rng.integers(0, 200, (side, side)).astype(np.uint8)
            content = png_bytes(plane)
            if storage.is_local(folder):
                (Path(folder) / f"{image_id}_{stain}.png").write_bytes(content)
            else:
                storage.write_bytes(f"{folder}/{image_id}_{stain}.png", content)
    extensions = pa.array(["png"] * num_images, MANIFEST_ROW.field("extension").type)
    labels = pa.array([sorted({k % NUM_CLASSES, k % 5}) for k in range(num_images)], LABELS)
    sources = pa.array(np.zeros(num_images, np.int8))
    return Manifest(pa.table([pa.array(ids), sources, extensions, labels], schema=MANIFEST_ROW), [], (folder,), [])


@pytest.mark.parametrize("where", ["local", "memory"])
def test_bad_images_are_left_out_and_the_others_keep_their_order(where: str, tmp_path: Path) -> None:
    folder = f"memory://{uuid.uuid4().hex}" if where == "memory" else str(tmp_path)
    table = write_planes(folder, 10).table
    good = ImageSource((folder,), table, ("green", "red"), 6).read(np.arange(10)).pixels_BCSS
    storage.write_bytes(f"{folder}/i002_red.png", b"")
    storage.write_bytes(f"{folder}/i005_green.png", storage.read_bytes(f"{folder}/i005_green.png")[:-20])
    storage.remove([f"{folder}/i007_red.png"])
    storage.remove([f"{folder}/i008_blue.png"])  # not asked for
    source = ImageSource((folder,), table, ("green", "red"), 6)
    rows = np.array([7, 9, 2, 0, 5, 8, 9])
    images = source.read(rows)
    assert images.rows_B.tolist() == [9, 0, 8, 9]
    assert images.pixels_BCSS.shape == (4, 2, 6, 6)
    assert np.array_equal(images.pixels_BCSS, good[images.rows_B])
    assert [(r.row, r.image_id, r.file) for r in images.rejects] == [
        (7, "i007", "i007_red.png"),
        (2, "i002", "i002_red.png"),
        (5, "i005", "i005_green.png"),
    ]
    reasons = [reject.reason for reject in images.rejects]
    assert "empty" in reasons[1]
    assert "truncated" in reasons[2]
    nothing = source.read(np.array([2, 7]))
    assert len(nothing.rows_B) == 0
    assert nothing.pixels_BCSS.shape == (0, 2, 6, 6)


def test_reading_no_rows_gives_no_pixels(tmp_path: Path) -> None:
    table = write_planes(str(tmp_path), 1).table
    assert ImageSource((str(tmp_path),), table, STAINS, 6).read(np.empty(0, np.int64)).pixels_BCSS.shape == (0, 4, 6, 6)


def test_channels_come_in_the_order_asked_for(tmp_path: Path) -> None:
    table = write_planes(str(tmp_path), 3).table
    every = ImageSource((str(tmp_path),), table, STAINS, 12).read(np.arange(3)).pixels_BCSS
    some = ImageSource((str(tmp_path),), table, ("yellow", "red"), 12).read(np.arange(3)).pixels_BCSS
    assert np.array_equal(some, every[:, [3, 0]])
    assert np.array_equal(every[1, 2], decode_plane((tmp_path / "i001_blue.png").read_bytes(), "blue").pixels)


# tasks


@given(numbers=st.lists(st.integers(0, 1000), max_size=30))
@settings(deadline=None)
def test_every_task_is_done_once(numbers: list[int]) -> None:
    results = list(run_tasks(lambda number: {"square": number**2}, numbers, num_workers=0))
    assert sorted(result["square"] for result in results) == sorted(number**2 for number in numbers)


def test_a_failing_task_ends_the_others() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def work(number: int) -> dict[str, Any]:
        begun.append(number)
        if number == 0:
            failed.set()
            raise InputError("bad image")
        failed.wait(10)
        time.sleep(0.001)
        return {}

    with pytest.raises(InputError, match="bad image"):
        list(run_tasks(work, range(10_000), num_workers=0))
    assert len(begun) < 10_000


# prepare

NUM_IMAGES = 150  # in shards of 64 rows: three, the last one short
SIZE = 8


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    folder = str(tmp_path_factory.mktemp("noise"))
    return folder, write_planes(folder, NUM_IMAGES)


def prepare_noise(noise: tuple[str, Manifest], output: Path | str, **changes: Any) -> ShardIndex:
    settings: dict[str, Any] = {"channels": STAINS, "shard_bytes": 1, "num_workers": 0, "seed": 1}
    sizes = {changes.pop("image_size", SIZE): str(output)}
    manifest = noise[1]._replace(folders=(noise[0],))
    (index,) = prepare(manifest, output=str(output), sizes=sizes, **settings | changes)
    return index


def content_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_shards_hold_the_pixels_of_the_files(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    index = prepare_noise(noise, tmp_path)
    assert sorted(content_of(tmp_path)) == [
        "checksums.arrow",
        "index.json",
        "manifest.arrow",
        "rejected.parquet",
        *(f"shard-{k:05d}.arrow" for k in range(3)),
    ]
    assert not (tmp_path / "parts").exists()
    assert [entry.rows for entry in index.shards] == [64, 64, 22]
    assert [entry.sha256 for entry in index.shards] == [content_of(tmp_path)[entry.file] for entry in index.shards]
    shards, table = open_shards(str(tmp_path), STAINS)
    ids = table["image_id"].to_pylist()
    assert sorted(ids) == noise[1].table["image_id"].to_pylist()
    assert ids != sorted(ids)  # one global random order
    labels = dict(zip(noise[1].table["image_id"].to_pylist(), noise[1].table["labels"].to_pylist(), strict=True))
    assert table["labels"].to_pylist() == [labels[image_id] for image_id in ids]
    pixels = shards.read(np.arange(NUM_IMAGES)).pixels_BCSS
    files = ImageSource((noise[0],), table, STAINS, SIZE).read(np.arange(NUM_IMAGES)).pixels_BCSS
    assert np.array_equal(pixels, files)


@settings(deadline=None, max_examples=12)
@given(
    num_images=st.integers(1, 70),
    image_size=st.integers(1, 14),
    channels=st.lists(st.sampled_from(STAINS), min_size=1, unique=True),
    seed=st.integers(0, 1000),
)
def test_any_set_of_images_comes_back(
    noise: tuple[str, Manifest],
    tmp_path_factory: pytest.TempPathFactory,
    num_images: int,
    image_size: int,
    channels: list[str],
    seed: int,
) -> None:
    output = str(tmp_path_factory.mktemp("any") / "shards")
    some = noise[1]._replace(table=noise[1].table.slice(NUM_IMAGES - num_images))
    prepare(some, output=output, channels=tuple(channels), sizes={image_size: output}, seed=seed, num_workers=0)
    shards, table = open_shards(output, tuple(channels))
    rows = np.arange(num_images)
    files = ImageSource((noise[0],), table, tuple(channels), image_size).read(rows).pixels_BCSS
    assert np.array_equal(shards.read(rows).pixels_BCSS, files)
    assert list(shards.index.channels) == [stain for stain in STAINS if stain in channels]


def test_the_statistics_are_those_of_the_pixels(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    index = prepare_noise(noise, tmp_path)
    pixels = open_shards(str(tmp_path), STAINS)[0].read(np.arange(NUM_IMAGES)).pixels_BCSS.astype(np.float64) / 255
    assert np.allclose(index.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(index.std, pixels.std(axis=(0, 2, 3)), rtol=1e-9)
    assert list(index.class_counts) == noise[1].targets().sum(axis=0).tolist()
    assert (index.num_images, index.num_rejected) == (NUM_IMAGES, 0)


@pytest.mark.parametrize("value", [0, 1, 77, 255])
def test_a_stain_of_one_value_has_no_spread(tmp_path: Path, value: int) -> None:
    plane = np.full((9, 9), value, np.uint8)
    for stain in STAINS:
        (tmp_path / f"a_{stain}.png").write_bytes(png_bytes(plane))
    manifest = open_images(DataConfig(images=str(tmp_path)))
    output = str(tmp_path / "out")
    (index,) = prepare(manifest, output=output, channels=STAINS, sizes={9: output}, num_workers=0)
    assert index.mean == pytest.approx((value / 255,) * 4)
    assert index.std == (0, 0, 0, 0)
    assert sum(index.class_counts) == 0


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    noise: tuple[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> None:
    prepare_noise(noise, tmp_path / "one")
    monkeypatch.setattr(os, "cpu_count", lambda: num_threads)
    prepare_noise(noise, tmp_path / "other")
    assert content_of(tmp_path / "one") == content_of(tmp_path / "other")


@pytest.mark.parametrize("num_done", [0, 1, 2])
def test_a_stopped_run_goes_on_where_it_was(
    noise: tuple[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_done: int
) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    prepare_noise(noise, straight)

    class Stop(Exception):
        pass

    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # so that no other shard is under way
    original = _ShardTask.__call__

    def fail_at(self: _ShardTask, number: int) -> dict[str, Any]:
        if number == num_done:
            raise Stop
        return original(self, number)

    monkeypatch.setattr(_ShardTask, "__call__", fail_at)
    with pytest.raises(Stop):
        prepare_noise(noise, stopped)
    monkeypatch.setattr(_ShardTask, "__call__", original)
    finished = {path: path.stat().st_mtime_ns for path in stopped.glob("shard-*")}
    assert num_done <= len(finished) < 3  # the one thread may take up another shard before it is told to stop
    num_done = sum(22 if path.name == "shard-00002.arrow" else 64 for path in finished)
    assert not (stopped / "index.json").exists()
    (stopped / "shard-00002.arrow.0123.tmp").write_bytes(b"cut")  # what a killed process leaves
    (stopped / "parts").mkdir(exist_ok=True)
    (stopped / "parts" / "shard-00002.json.0123.tmp").write_bytes(b"cut")

    progress: list[tuple[int, int]] = []
    prepare_noise(noise, stopped, on_progress=lambda done, total: progress.append((done, total)))
    assert content_of(stopped) == content_of(straight)
    assert sorted(path.name for path in stopped.iterdir()) == sorted(path.name for path in straight.iterdir())
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert progress[0] == (num_done, NUM_IMAGES)
    assert progress[-1] == (NUM_IMAGES, NUM_IMAGES)


def test_a_shard_that_was_lost_meanwhile_is_written_again(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == total:
            raise Stop

    with pytest.raises(Stop):
        prepare_noise(noise, tmp_path / "lost", on_progress=stop)
    (tmp_path / "lost" / "shard-00000.arrow").unlink()
    os.truncate(tmp_path / "lost" / "shard-00001.arrow", 100)
    prepare_noise(noise, tmp_path / "lost")
    prepare_noise(noise, tmp_path / "straight")
    assert content_of(tmp_path / "lost") == content_of(tmp_path / "straight")


def test_a_finished_folder_is_left_as_it_is(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    index = prepare_noise(noise, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert prepare_noise(noise, tmp_path) == index
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("changes", [{"seed": 2}, {"image_size": 9}, {"channels": ("red", "green")}])
def test_other_settings_in_the_same_folder_are_refused(
    noise: tuple[str, Manifest], tmp_path: Path, changes: dict[str, Any], finished: bool
) -> None:
    def stop(done: int, total: int) -> None:
        if done and not finished:
            raise KeyboardInterrupt

    try:
        prepare_noise(noise, tmp_path, on_progress=stop)
    except KeyboardInterrupt:
        assert not finished
    before = content_of(tmp_path)
    with pytest.raises(InputError, match="other images or settings"):
        prepare_noise(noise, tmp_path, **changes)
    fewer = noise[0], noise[1]._replace(table=noise[1].table.slice(1))
    with pytest.raises(InputError, match="other images or settings"):
        prepare_noise(fewer, tmp_path)
    relabelled = noise[1].table.set_column(3, "labels", pa.array([[3]] * NUM_IMAGES, LABELS))
    with pytest.raises(InputError, match="other images or settings"):
        prepare_noise((noise[0], noise[1]._replace(table=relabelled)), tmp_path)
    assert content_of(tmp_path) == before


def test_a_folder_with_other_files_or_a_file_is_refused(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_bytes(b"1")
    with pytest.raises(InputError, match=r"thesis\.docx"):
        prepare_noise(noise, tmp_path)
    with pytest.raises(InputError, match="is a file"):
        prepare_noise(noise, tmp_path / "thesis.docx")
    assert content_of(tmp_path).keys() == {"thesis.docx"}


def damaged_copy(noise: tuple[str, Manifest], folder: Path, rows: Sequence[int]) -> tuple[str, Manifest]:
    shutil.copytree(noise[0], folder)
    for row in rows:
        (folder / f"i{row:03d}_blue.png").write_bytes(b"")
    return str(folder), noise[1]


def test_rejected_images_are_counted_and_named(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    bad = [0, 13, 130, 149]
    data = damaged_copy(noise, tmp_path / "images", bad)
    earlier = Reject(-1, "gone", "gone_red.png", "no image files")
    data = data[0], data[1]._replace(rejects=[earlier])
    index = prepare_noise(data, tmp_path / "out", on_error="quarantine", max_rejected=0.04)
    assert (index.num_images, index.num_rejected) == (NUM_IMAGES - 4, 5)
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert rejected[0]["image_id"] == "gone"
    assert sorted(line["file"] for line in rejected[1:]) == [f"i{row:03d}_blue.png" for row in bad]
    shards, table = open_shards(str(tmp_path / "out"), STAINS)
    assert set(table["image_id"].to_pylist()) == {f"i{k:03d}" for k in range(NUM_IMAGES) if k not in bad}
    rows = np.arange(index.num_images)
    files = ImageSource((noise[0],), table, STAINS, SIZE).read(rows).pixels_BCSS
    assert np.array_equal(shards.read(rows).pixels_BCSS, files)
    good = np.delete(noise[1].targets(), bad, axis=0)
    assert list(index.class_counts) == good.sum(axis=0).tolist()
    with pytest.raises(InputError, match=r"max_rejected=0\.02"):
        prepare_noise(data, tmp_path / "few", on_error="quarantine", max_rejected=0.02)


def test_after_a_bad_image_the_advice_can_be_followed_in_the_same_folder(
    noise: tuple[str, Manifest], tmp_path: Path
) -> None:
    data = damaged_copy(noise, tmp_path / "images", [13])
    with pytest.raises(InputError, match=r"i013_blue\.png: the file is empty(?s:.*)data\.on_error=quarantine"):
        prepare_noise(data, tmp_path / "out")
    index = prepare_noise(data, tmp_path / "out", on_error="quarantine")
    assert index.num_rejected == 1
    prepare_noise(data, tmp_path / "straight", on_error="quarantine")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "straight")


def test_images_left_out_before_a_stop_count_after_it(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    data = damaged_copy(noise, tmp_path / "images", range(20))

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_noise(data, tmp_path / "out", on_error="quarantine", max_rejected=0.5, on_progress=stop)
    with pytest.raises(InputError, match=r"max_rejected=0\.05"):
        prepare_noise(data, tmp_path / "out", on_error="quarantine", max_rejected=0.05)
    with pytest.raises(InputError, match=r"data\.on_error=quarantine"):
        prepare_noise(data, tmp_path / "out", on_error="fail")
    for row in range(20):  # mended
        shutil.copy(Path(noise[0]) / f"i{row:03d}_blue.png", tmp_path / "images")
    assert prepare_noise(data, tmp_path / "out", on_error="fail").num_rejected == 0


@pytest.mark.parametrize("rejected_by", ["decode", "manifest"])
def test_nothing_left_is_said_plainly(noise: tuple[str, Manifest], tmp_path: Path, rejected_by: str) -> None:
    if rejected_by == "decode":
        data = damaged_copy(noise, tmp_path / "images", range(NUM_IMAGES))
    else:
        rejects = [Reject(-1, "a", "a_red.png", "no image files")]
        data = noise[0], noise[1]._replace(table=noise[1].table.slice(0, 0), rejects=rejects)
    for _ in range(2):  # the second time it finds what the first has left
        with pytest.raises(InputError, match=r"none of the \d+ labelled images can be used"):
            prepare_noise(data, tmp_path / "out", on_error="quarantine", max_rejected=1)
    assert not (tmp_path / "out" / "index.json").exists()
    if rejected_by == "decode":
        for row in range(NUM_IMAGES):
            shutil.copy(Path(noise[0]) / f"i{row:03d}_blue.png", tmp_path / "images")
        assert prepare_noise(data, tmp_path / "out", on_error="fail").num_images == NUM_IMAGES


def test_an_object_store_gets_the_same_bytes(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    local = prepare_noise(noise, tmp_path)
    remote = f"memory://{uuid.uuid4().hex}/shards"
    assert prepare_noise(noise, remote) == local
    assert storage.list_files(remote) == storage.list_files(str(tmp_path))
    assert storage.read_bytes(f"{remote}/index.json") == (tmp_path / "index.json").read_bytes()


def test_the_synthetic_atlas_can_be_prepared(atlas: Path, tmp_path: Path) -> None:
    manifest = open_images(DataConfig(images=str(atlas / "train"), labels=str(atlas / "train.csv")))
    (index,) = prepare(manifest, output=str(tmp_path), channels=STAINS, sizes={32: str(tmp_path)}, num_workers=0)
    counts = manifest.targets().sum(axis=0)
    assert list(index.class_counts) == counts.tolist()
    assert min(index.std) > 0


def test_several_sizes_come_from_one_pass(
    noise: tuple[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder has the shards of a `prepare` of that size alone, and every file is read once."""
    read: list[str] = []
    original = reader.read_many

    def note(uris: Sequence[str]) -> Iterator[bytes | OSError]:
        read.extend(uris)
        return original(uris)

    monkeypatch.setattr(reader, "read_many", note)
    both = tmp_path / "both"
    settings: dict[str, Any] = {"channels": STAINS, "seed": 1, "num_workers": 0}
    sizes = {4: str(both / "4px"), SIZE: str(both / "8px")}
    indexes = prepare(noise[1], output=str(both), sizes=sizes, **settings)
    assert len(read) == len(set(read)) == NUM_IMAGES * 4
    assert sorted(path.name for path in both.iterdir()) == ["4px", "8px"]
    for index, (size, folder) in zip(indexes, sizes.items(), strict=True):
        other = str(tmp_path / str(size))
        (alone,) = prepare(noise[1], output=other, sizes={size: other}, **settings)
        assert index.shards == alone.shards
        assert (index.mean, index.std, index.sources) == (alone.mean, alone.std, alone.sources)
        shard = "shard-00000.arrow"
        assert (Path(folder) / shard).read_bytes() == (tmp_path / str(size) / shard).read_bytes()
        assert open_shards(folder, STAINS)[0].image_size == size


def test_several_sizes_go_on_after_a_stop_between_their_indexes(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    sizes = {4: str(tmp_path / "4px"), SIZE: str(tmp_path / "8px")}
    settings: dict[str, Any] = {"channels": STAINS, "sizes": sizes, "num_workers": 0}
    prepare(noise[1], output=str(tmp_path), **settings)
    whole = content_of(tmp_path)
    (tmp_path / "8px" / "index.json").unlink()  # with the notes gone, all is done again
    (tmp_path / "4px" / "manifest.arrow.12.tmp").write_bytes(b"cut")
    with pytest.raises(InputError, match="holds other files"):
        prepare(noise[1], output=str(tmp_path), **settings)
    (tmp_path / "4px" / "index.json").unlink()

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    for name in whole:
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(KeyboardInterrupt):
        prepare(noise[1], output=str(tmp_path), on_progress=stop, **settings)
    assert (tmp_path / "plan.json").exists()
    prepare(noise[1], output=str(tmp_path), **settings)
    assert content_of(tmp_path) == whole


def test_the_plan_is_what_is_written(noise: tuple[str, Manifest], tmp_path: Path) -> None:
    found = plan(noise[1], output=str(tmp_path / "new"), channels=STAINS, sizes=[4, SIZE], shard_bytes=1)
    assert not (tmp_path / "new").exists()
    sizes = {4: str(tmp_path / "new" / "4px"), SIZE: str(tmp_path / "new" / "8px")}
    indexes = prepare(
        noise[1], output=str(tmp_path / "new"), channels=STAINS, sizes=sizes, shard_bytes=1, num_workers=0
    )
    assert found.num_images == NUM_IMAGES
    assert found.num_shards == sum(len(index.shards) for index in indexes)
    assert found.num_bytes == NUM_IMAGES * 4 * (4**2 + SIZE**2)
    assert found.seconds_per_image
    assert found.free_bytes


def test_every_source_has_its_own_statistics(tmp_path: Path) -> None:
    ids = {"dark": ["a", "b"], "light": ["c", "d", "e"]}
    for value, (name, some) in zip((10, 200), ids.items(), strict=True):
        (tmp_path / name).mkdir()
        for image_id in some:
            for stain in STAINS:
                (tmp_path / name / f"{image_id}_{stain}.png").write_bytes(png_bytes(np.full((8, 8), value, np.uint8)))
        (tmp_path / name / "labels.csv").write_text("Id,Target\n" + "".join(f"{image_id},3\n" for image_id in some))
    dark, light = str(tmp_path / "dark"), str(tmp_path / "light")
    manifest = open_images(DataConfig(images=dark, labels=f"{dark}/labels.csv", extra=(light,)))
    output = str(tmp_path / "out")
    (index,) = prepare(manifest, output=output, channels=STAINS, sizes={4: output}, num_workers=0)
    assert [(entry.name.rpartition("/")[2], entry.num_images) for entry in index.sources] == [("dark", 2), ("light", 3)]
    assert [entry.mean[0] for entry in index.sources] == pytest.approx([10 / 255, 200 / 255])
    assert index.mean[0] == pytest.approx((2 * 10 + 3 * 200) / 5 / 255)
    source, table = open_shards(output, STAINS)
    pixels = source.read(np.arange(5)).pixels_BCSS[:, 0, 0, 0]
    assert pixels.tolist() == [(10, 200)[number] for number in table["source"].to_pylist()]
