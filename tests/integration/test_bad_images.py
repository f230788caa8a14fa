"""Image folders and files that can not be used: named, mended or left out as asked, and the same command goes on."""

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from bad_data import (
    ADVICE,
    NO_IMAGES,
    Data,
    born_model,
    done,
    first_images,
    flip_a_pixel_byte,
    read_csv,
    refused,
    rejected,
)
from PIL import Image


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return born_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(atlas: Path, model_file: Path, tmp_path: Path) -> Data:
    return first_images(atlas, tmp_path, 12, model_file)


# ---- the folder


def no_folder(images: Path) -> str:
    shutil.rmtree(images)
    return "no such folder"


def a_file(images: Path) -> str:
    shutil.rmtree(images)
    images.write_text("x")
    return "is a file - give the folder that holds the images"


def an_empty_folder(images: Path) -> str:
    shutil.rmtree(images)
    images.mkdir()
    return f"{NO_IMAGES}; it holds no files"


def other_files(images: Path) -> str:
    shutil.rmtree(images)
    (images / "folder_red.png").mkdir(parents=True)
    for name in ("a\x1b[2J_red.png", "a_pink.png", "a_red.bmp", "-_red.png", "b c_red.tif"):
        (images / name).write_bytes(b"x")
    return f"{NO_IMAGES}; its 5 files look like '-_red.png'"


@pytest.mark.parametrize("spoil", [no_folder, a_file, an_empty_folder, other_files])
@pytest.mark.parametrize("verb", ["check", "explore", "duplicates", "prepare", "train", "predict"])
def test_images_folder(spoil: Callable[[Path], str], verb: str, data: Data) -> None:
    reason = spoil(data.images)
    assert refused(*data.command(verb)) == [f"data.images = {data.images}: {reason}"]
    assert data.unfinished()


def test_odd_names_are_told_of_but_do_no_harm(data: Data) -> None:
    for name in ("a\x1b[2J_red.png", "b\nc_red.png", "d,e_red.png", "\udcff_red.png"):
        (data.images / name).write_bytes(b"x")
    said = done(*data.command("check"))
    (line,) = [line for line in said if "not named" in line]
    assert line == (
        r"problem  4 files are not named <Id>_<color>.png: 'a\x1b[2J_red.png', 'b\nc_red.png', 'd,e_red.png'"
    )
    assert done(*data.command("predict"))
    assert len((data.root / "predicted" / "submission.csv").read_text().splitlines()) == 13


def test_a_folder_whose_name_moves_the_cursor_is_printed_harmlessly(data: Data) -> None:
    odd = data.images.rename(data.root / "a\x1b[2J\nb\udcff")
    said = done("check", f"data.images={odd}", f"data.labels={data.labels}", f"check.output={data.root}/checked")
    assert rf"images  {data.root}/a\x1b[2J\nb\udcff: 12 images in 48 files" in said[0]
    words = ("prepare", f"data.images={odd}", f"data.labels={data.labels}", f"prepare.output={data.shards}")
    (odd / f"{data.ids[0]}_red.png").rename(data.root / "away.png")
    assert refused(*words)[0] == rf"{data.root}/a\x1b[2J\nb\udcff/{data.ids[0]}_red.png: missing: red plane"
    (data.root / "away.png").rename(odd / f"{data.ids[0]}_red.png")
    done(*words, "prepare.num_workers=0", "data.image_size=32")
    assert data.index()["num_images"] == 12


def test_five_files_of_a_kind_are_shown_and_the_others_counted(data: Data) -> None:
    for path in sorted(data.images.glob("*_green.png"))[:8]:
        path.unlink()
    for path in sorted(data.images.glob("*_green.png")):
        path.write_bytes(b"")
    problems = [line for line in done(*data.command("check")) if line.startswith("problem ")]
    ids = sorted(data.ids)
    assert problems == [
        *(f"problem  {data.images}/{name}_green.png: the file is empty (0 bytes)" for name in ids[8:]),
        *(f"problem  {data.images}/{name}_green.png: missing: green plane" for name in ids[:5]),
        "problem  and 3 more: missing: green plane (check.output=FOLDER lists all)",
    ]
    assert refused(*data.command("check", "--strict", f"check.output={data.root}/c")) == ["12 problems, listed above"]
    assert [row[0] for row in rejected(data.root / "c")] == ids


# ---- the files of an image


def encoded(values: np.ndarray, kind: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    image, buffer = Image.fromarray(values), io.BytesIO()
    (image if mode is None else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


NOISE = np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)
IN_RED = np.stack([NOISE, NOISE * 0, NOISE * 0], axis=-1)


def lie_about_the_size(data: bytes) -> bytes:
    header = data[12:16] + struct.pack(">II", 100_000, 100_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


# name -> (what becomes of the green plane, the reason that is told, the plane that is blamed)
SPOILT: dict[str, tuple[Callable[[bytes], bytes | None], str, str]] = {
    "missing": (lambda _: None, "missing: green plane", "green"),
    "empty": (lambda _: b"", "the file is empty (0 bytes)", "green"),
    "text": (
        lambda _: b"Id,Target\n",
        "not an image file that can be read, expected a PNG, TIFF or JPEG of one stain",
        "green",
    ),
    "truncated": (lambda good: good[:-20], "truncated PNG (ends after ", "green"),
    "truncated TIFF": (lambda _: encoded(NOISE, "TIFF")[:-20], "truncated TIFF (ends after ", "green"),
    "truncated JPEG": (lambda _: encoded(NOISE, "JPEG")[:-20], "truncated JPEG (ends after ", "green"),
    "flipped": (flip_a_pixel_byte, "damaged PNG (checksum of chunk 'IDAT' at byte ", "green"),
    "huge": (lie_about_the_size, "100000 x 100000 px, more than ", "green"),
    "palette": (lambda _: encoded(NOISE, mode="P"), "palette PNG - save it as 8-bit gray or 8-bit RGB", "green"),
    "RGBA": (lambda _: encoded(IN_RED, mode="RGBA"), "RGBA PNG - if the four planes are the four stains ", "green"),
    "CMYK": (lambda _: encoded(IN_RED, "JPEG", "CMYK"), "CMYK JPEG - save it as gray or RGB", "green"),
    "another stain": (
        lambda _: encoded(IN_RED),
        "RGB PNG looks like another stain's picture or a merged one (RMS of R ",
        "green",
    ),
    "size": (lambda _: encoded(NOISE[:32, :32]), "planes of different sizes: 32 x 32 px, 64 x 64 px", "red"),
    "oblong": (lambda _: encoded(NOISE[:32]), "planes of different sizes: 64 x 32 px, 64 x 64 px", "red"),
}


def spoil(data: Data, how: str, image_id: str) -> tuple[Path, bytes, str, str]:
    """Spoil the green plane of an image -> its path, its good bytes, the name that is blamed, the reason."""
    change, reason, blamed = SPOILT[how]
    path = data.images / f"{image_id}_green.png"
    good = path.read_bytes()
    path.unlink()
    if (content := change(good)) is not None:
        path.write_bytes(content)
    return path, good, f"{image_id}_{blamed}.png", reason


@pytest.mark.parametrize("how", SPOILT)
def test_a_bad_file_is_named_mended_and_the_same_command_goes_on(how: str, data: Data) -> None:
    bad = data.ids[3]
    path, good, blamed, reason = spoil(data, how, bad)

    said = done(*data.command("check", f"check.output={data.root}/checked"))
    (line,) = [line for line in said if line.startswith("problem ")]
    assert line.startswith(f"problem  {data.images}/{blamed}: {reason}")
    ((image_id, file, told),) = rejected(data.root / "checked")
    assert (image_id, file) == (bad, blamed)
    assert told.startswith(reason)
    assert refused(*data.command("check", "--strict")) == ["1 problems, listed above"]

    for verb in ("duplicates", "prepare", "predict"):
        line, advice = refused(*data.command(verb))
        assert line.startswith(f"{data.images}/{blamed}: {reason}")
        assert advice == f"1 of 12 images can not be used: {ADVICE}"
    assert data.unfinished()

    quarantine = ("data.on_error=quarantine", "data.max_rejected=0.05")
    *lines, advice_line = refused(*data.command("prepare", *quarantine))
    assert len(lines) == 1
    assert lines[0].startswith(f"{data.images}/{blamed}: {reason}")
    assert advice_line == "1 of 12 images can not be used, more than data.max_rejected=0.05 allows"
    assert refused(*data.command("prepare", *quarantine))[-1] == advice_line  # a second try is no way around it
    assert data.unfinished()

    path.write_bytes(good)
    done(*data.command("prepare"))
    assert data.index()["num_images"] == 12
    assert rejected(data.shards) == []


@pytest.mark.parametrize(
    ("extension", "blamed", "reason"),
    [
        ("tif", "red.png", "planes in different formats: png, tif"),
        ("bmp", "green.png", "missing: green plane"),
    ],
)
def test_a_plane_in_another_format_than_its_image(extension: str, blamed: str, reason: str, data: Data) -> None:
    path = data.images / f"{data.ids[3]}_green.png"
    path.rename(path.with_suffix(f".{extension}"))
    told = f"{data.images}/{data.ids[3]}_{blamed}: {reason}"
    assert f"problem  {told}" in done(*data.command("check"))
    for verb in ("duplicates", "prepare", "train", "predict"):
        assert refused(*data.command(verb)) == [told, f"1 of 12 images can not be used: {ADVICE}"]
    assert data.unfinished()


@pytest.mark.parametrize("how", ["missing", "palette"])
def test_quarantine_leaves_out_what_is_bad_and_lists_it(how: str, data: Data) -> None:
    bad = data.ids[3]
    _, _, blamed, reason = spoil(data, how, bad)
    words = data.command("prepare", "data.on_error=quarantine", "data.max_rejected=0.1")
    assert any("1 left out" in line for line in done(*words))
    assert data.index()["num_images"] == 11
    assert rejected(data.shards) == [(bad, blamed, reason)]
    done(*words)
    # who now asks for all images is not given these shards
    told = refused(*data.command("prepare"))
    if how == "missing":
        assert told == [f"{data.images}/{blamed}: {reason}", f"1 of 12 images can not be used: {ADVICE}"]
    else:
        assert told == [
            f"{data.shards}: 1 images were left out of these shards (see rejected.parquet), which data.on_error=fail "
            "does not allow - choose another folder or delete it"
        ]
    assert refused(*data.command("predict", "data.on_error=quarantine"))[-1].endswith("data.max_rejected=0.01 allows")
    assert not (data.root / "predicted").exists()
    done(*data.command("predict", "data.on_error=quarantine", "data.max_rejected=0.1"))
    assert rejected(data.root / "predicted") == [(bad, blamed, reason)]
    assert pq.read_table(data.root / "predicted" / "predictions.parquet").num_rows == 11
    rows = read_csv(data.root / "predicted" / "submission.csv")
    assert [row["Id"] for row in rows] == sorted(data.ids)
    assert all(row["Predicted"] for row in rows)


def test_when_no_image_is_left(data: Data) -> None:
    for path in data.images.glob("*_blue.png"):
        path.write_bytes(b"x")
    everything = ("data.on_error=quarantine", "data.max_rejected=1")
    told = f"data.images = {data.images}: none of the 12 labelled images can be used - `hpa-ray check` tells why"
    assert refused(*data.command("prepare", *everything)) == [told]
    assert refused(*data.command("prepare", *everything)) == [told]
    nothing = [f"{data.images}: none of its images can be used - `hpa-ray check` tells why"]
    assert refused(*data.command("duplicates", *everything)) == nothing
    assert data.unfinished()
    for path in data.images.glob("*_blue.png"):
        path.unlink()
    shutil.rmtree(data.shards)
    assert refused(*data.command("prepare", *everything)) == [told]
    assert refused(*data.command("prepare", "--dry-run", *everything)) == nothing
    assert refused(*data.command("train", *everything)) == nothing
    assert refused(*data.command("explore"))[-1:] == nothing
    assert data.unfinished()
    assert done(*data.command("check"))[-2].startswith("usable  0 images")
