"""What a user sees of every mistake in the input: exit code 2, a line a problem, nothing half-written, mend and go on.

Everything runs through the command line's `main` in this process, without Ray.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hpa_ray.checkpoint.model_file import ModelCard, save_model
from hpa_ray.cli.main import main
from hpa_ray.config import config_keys
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model import build_model

STAINS = "red, green, blue, yellow"
ADVICE = "mend them, or leave such images out with data.on_error=quarantine"
Run = Callable[..., list[str]]


def call(*words: str) -> tuple[int, list[str], list[str]]:
    """Exit code and the lines of both outputs, which never hold a traceback or a character that moves the cursor."""
    out, err, ray_before = io.StringIO(), io.StringIO(), ray_runs()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    for text in (out.getvalue(), err.getvalue()):
        assert "Traceback" not in text, text
        assert all(char.isprintable() for char in text.replace("\n", "")), repr(text)
    assert ray_runs() == ray_before
    return code, out.getvalue().splitlines(), err.getvalue().splitlines()


def ray_runs() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def refused(*words: str) -> list[str]:
    """What is told of a mistake, a line each, without the name of the command."""
    code, _, told = call(*words)
    assert code == 2, told
    who = f"hpa-ray {words[0]}: "
    assert told
    assert all(line.startswith(who) for line in told)
    return [line.removeprefix(who) for line in told]


def done(*words: str) -> list[str]:
    code, said, told = call(*words)
    assert code == 0, told
    assert told == []
    return said


class Data(NamedTuple):
    """Images and labels of a test's own, and what to type."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "train"

    @property
    def labels(self) -> Path:
        return self.root / "train.csv"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def ids(self) -> list[str]:
        return [line.split(",")[0] for line in self.labels.read_text().splitlines()[1:]]

    def command(self, verb: str, *more: str) -> tuple[str, ...]:
        words = [verb, f"data.images={self.images}", "data.image_size=32"]
        if verb != "predict":
            words.append(f"data.labels={self.labels}")
        words += {
            "check": [],
            "prepare": [f"prepare.output={self.shards}", "prepare.num_workers=0"],
            "train": training(self.root),
            "predict": [f"predict.run={self.root}/model.safetensors", f"predict.output={self.root}/predicted"],
        }[verb]
        return (*words, *more)

    def unfinished(self) -> bool:
        """Whether nothing is there that a later run could take for whole."""
        results = [self.shards / "index.json", self.root / "predicted", *self.root.rglob("*.tmp")]
        return not any(result.exists() for result in results)


def training(root: Path) -> list[str]:
    words = ["train.num_workers=0", "model.name=resnet18", "train.epochs=1", "optim.warmup_epochs=0"]
    return [*words, "run.name=run", f"run.storage={root}/runs"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the weights it was born with."""
    channels = ("red", "green", "blue", "yellow")
    model = build_model("resnet18", mean=[0.1] * 4, std=[0.1] * 4, num_classes=NUM_CLASSES, seed=0)
    card = ModelCard(
        channels=channels,
        image_size=32,
        architecture="resnet18",
        run="born",
        epoch=0,
        thresholds=(0.5,) * NUM_CLASSES,
        config="",
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(str(path), model, card)
    return path


@pytest.fixture
def data(atlas: Path, model_file: Path, tmp_path: Path) -> Data:
    """The first twelve images of the atlas, to be spoilt."""
    lines = (atlas / "train.csv").read_text().splitlines()[:13]
    (tmp_path / "train").mkdir()
    for line in lines[1:]:
        for file in (atlas / "train").glob(f"{line.split(',')[0]}_*.png"):
            shutil.copy(file, tmp_path / "train")
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    os.link(model_file, tmp_path / "model.safetensors")
    return Data(tmp_path)


@pytest.fixture
def whole(atlas: Path, model_file: Path, tmp_path: Path) -> Data:
    """All sixty images, to be spoilt: enough for a training."""
    shutil.copytree(atlas, tmp_path, dirs_exist_ok=True)
    os.link(model_file, tmp_path / "model.safetensors")
    return Data(tmp_path)


# ---- the command line itself


def test_words_that_are_no_command() -> None:
    verbs = "synth, check, split, prepare, train, evaluate, predict, config"
    assert call("trian")[2] == [f"hpa-ray: unknown verb 'trian' - there are: {verbs}"]
    assert call("\x1b[2Jx")[0] == 2
    assert call("train", "--confg", "x")[2] == [
        "hpa-ray: unrecognized arguments: --confg x - `hpa-ray --help` shows how it is used"
    ]
    assert call("train", "--config", "a.yaml", "--recipe", "embedded")[2] == [
        "hpa-ray: argument --recipe: not allowed with argument --config - `hpa-ray --help` shows how it is used"
    ]
    assert refused("train", "--recipe", "nope") == ["--recipe nope: no such recipe - there are: embedded"]
    assert refused("train", "epochs") == ["command line: 'epochs' - write it as key=value"]
    assert refused("train", "train.num_workers=0", "data.images=\x1b]0;x\x07") == [
        "no data: give data.shards=FOLDER, or data.images=FOLDER with data.labels=CSV"
    ]


def test_mistakes_of_file_and_words_come_together_and_before_anything_is_done(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("train: {epochs: 0}\ndata: {image_sise: 5}\n")
    for verb in ("check", "prepare", "train", "predict"):
        told = refused(verb, "--config", str(file), "train.batch_size=1", f"run.storage={tmp_path}/runs", "x")
        assert sorted(told) == sorted(
            [
                f"{file}: train.epochs = 0 - input should be greater than or equal to 1",
                f"{file}: unknown key 'data.image_sise' - did you mean 'data.image_size'?",
                "command line: train.batch_size = '1' - input should be greater than or equal to 2",
                "command line: 'x' - write it as key=value",
            ]
        )
    assert list(tmp_path.iterdir()) == [file]
    (told,) = refused("train", "--config", str(tmp_path))
    assert told.startswith(f"--config {tmp_path}: cannot be read (")


@pytest.mark.parametrize("value", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have(value: str, tmp_path: Path) -> None:
    for key in ("images", "labels", "shards", "split"):
        told = refused("check", "data.images=x", f"data.{key}={value}")
        assert told == [f"data.{key} = {value!r} - no file can have this name"]


def test_a_place_that_can_not_be_written_to(data: Data) -> None:
    (data.root / "file").touch()
    told = refused(*data.command("check"), f"check.output={data.root}/file/x")
    assert told == [f"{data.root}/file/x: Not a directory - mend it or name another place"]
    told = refused(*data.command("prepare"), f"prepare.output={data.root}/file")
    assert told == [f"prepare.output = {data.root}/file: is a file - give a folder"]
    told = refused(*data.command("train"), f"run.storage={data.root}/file")
    assert told == [f"{data.root}/file/run: Not a directory - mend it or name another place"]


# ---- the images folder


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
    return f"no files named <Id>_<color>.png, color one of {STAINS}; it holds no files"


def other_files(images: Path) -> str:
    shutil.rmtree(images)
    (images / "folder_red.png").mkdir(parents=True)
    for name in ("a\x1b[2J_red.png", "a_pink.png", "a_red.tif", "-_red.png", "b c_red.png"):
        (images / name).write_bytes(b"x")
    return f"no files named <Id>_<color>.png, color one of {STAINS}; its 5 files look like '-_red.png'"


@pytest.mark.parametrize("spoil", [no_folder, a_file, an_empty_folder, other_files])
@pytest.mark.parametrize("verb", ["check", "prepare", "train", "predict"])
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
    said = done("check", f"data.images={odd}", f"data.labels={data.labels}")
    assert rf"images  {data.root}/a\x1b[2J\nb\udcff: 12 images in 48 files" in said[0]
    (odd / f"{data.ids[0]}_red.png").unlink()
    lines = refused("prepare", f"data.images={odd}", f"data.labels={data.labels}", f"prepare.output={data.shards}")
    assert lines[0] == rf"{data.root}/a\x1b[2J\nb\udcff/{data.ids[0]}_red.png: missing: red plane"


# ---- the csv of labels


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "the file is empty - expected a csv with the header Id,Target"),
        (b" \n\n", "the file is empty - expected a csv with the header Id,Target"),
        (b"Id,Target\n", "no rows below the header"),
        (b"image,Target\na,1\n", "no column 'Id' - its columns are: image, Target"),
        (b"Id,label\na,1\n", "no column 'Target' - its columns are: Id, label"),
        (b"Id;Target\na;1\n", "no column 'Id' and 'Target' - its columns are: Id;Target"),
        (b"\x1b[2J,b\na,1\n", "no column 'Id' and 'Target' - its columns are: ?[2J, b"),
        (b"Id,Target,Target\na,1,2\n", "more than one column 'Target' - keep one"),
        (b"Id,Id,Target\na,b,2\n", "more than one column 'Id' - keep one"),
    ],
)
@pytest.mark.parametrize("verb", ["check", "prepare", "train"])
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
    assert refused(*data.command("prepare")) == told
    assert refused(*data.command("train")) == told
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
    assert unlabelled not in index_of(data)["shards"]
    assert index_of(data)["num_images"] == 11


# ---- the files of an image


def index_of(data: Data) -> dict[str, object]:
    index: dict[str, object] = json.loads((data.shards / "index.json").read_text())
    return index


def rejected(folder: Path) -> list[tuple[str, str, str]]:
    return [tuple(row.values()) for row in pq.read_table(folder / "rejected.parquet").to_pylist()]


def png(width: int = 64, height: int = 64, mode: str = "L") -> bytes:
    values = np.random.default_rng(1).integers(0, 256, (height, width), np.uint8)
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def flip_a_pixel_byte(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 20
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def lie_about_the_size(data: bytes) -> bytes:
    header = data[12:16] + struct.pack(">II", 100_000, 100_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


# name -> (what becomes of the green plane, the reason that is told, the plane that is blamed)
SPOILT: dict[str, tuple[Callable[[bytes], bytes | None], str, str]] = {
    "missing": (lambda _: None, "missing: green plane", "green"),
    "empty": (lambda _: b"", "the file is empty (0 bytes)", "green"),
    "text": (lambda _: b"Id,Target\n", "not a PNG file", "green"),
    "truncated": (lambda good: good[:-20], "truncated PNG (ends after ", "green"),
    "flipped": (flip_a_pixel_byte, "damaged PNG (checksum of chunk 'IDAT' at byte ", "green"),
    "huge": (lie_about_the_size, "100000 x 100000 px, more than ", "green"),
    "16-bit": (lambda _: png(mode="I;16"), "16-bit gray, expected 8-bit gray", "green"),
    "rgb": (lambda _: png(mode="RGB"), "RGB colour, expected 8-bit gray", "green"),
    "palette": (lambda _: png(mode="P"), "palette colour, expected 8-bit gray", "green"),
    "size": (lambda _: png(32, 32), "planes of different sizes: 32 x 32 px, 64 x 64 px", "red"),
    "oblong": (lambda _: png(64, 32), "planes of different sizes: 64 x 32 px, 64 x 64 px", "red"),
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

    for verb in ("prepare", "predict"):
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
    assert index_of(data)["num_images"] == 12
    assert rejected(data.shards) == []


@pytest.mark.parametrize("how", ["missing", "rgb"])
def test_quarantine_leaves_out_what_is_bad_and_lists_it(how: str, data: Data) -> None:
    bad = data.ids[3]
    _, _, blamed, reason = spoil(data, how, bad)
    words = data.command("prepare", "data.on_error=quarantine", "data.max_rejected=0.1")
    assert any("1 left out" in line for line in done(*words))
    assert index_of(data)["num_images"] == 11
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
    assert data.unfinished()
    for path in data.images.glob("*_blue.png"):
        path.unlink()
    shutil.rmtree(data.shards)
    assert refused(*data.command("prepare", *everything)) == [told]
    assert refused(*data.command("train", *everything)) == [
        f"{data.images}: none of its images can be used - `hpa-ray check` tells why"
    ]
    assert done(*data.command("check"))[-2].startswith("usable  0 images")


def test_training_from_files_names_the_bad_one_and_goes_on_when_it_is_mended(whole: Data) -> None:
    ids = whole.ids
    parts = whole.root / "split.csv"
    parts.write_text("Id,split\n" + "".join(f"{name},{'val' if k < 20 else 'train'}\n" for k, name in enumerate(ids)))
    words = whole.command("train", f"data.split={parts}", "train.batch_size=1000")
    path, good, blamed, reason = spoil(whole, "flipped", ids[40])
    line, advice = refused(*words)
    assert line.startswith(f"{whole.images}/{blamed}: {reason}")
    assert advice.endswith(f" images can not be used: {ADVICE}")
    run = whole.root / "runs" / "run"
    assert not run.exists()
    path.write_bytes(good)
    lost = whole.images / f"{ids[41]}_yellow.png"
    lost.rename(whole.root / "away.png")
    assert refused(*words) == [
        f"{whole.images}/{lost.name}: missing: yellow plane",
        f"1 of 60 images can not be used: {ADVICE}",
    ]
    (whole.root / "away.png").rename(lost)
    done(*words)  # a batch of 1,000 is the 40 images there are
    assert json.loads((run / "summary.json").read_text())["status"] == "done"
    assert refused(*words) == [
        f"{run}: there is a run of this name already - choose another run.name, or go on with it by run.resume=true"
    ]


def test_training_from_files_with_quarantine(whole: Data) -> None:
    ids = whole.ids
    parts = whole.root / "split.csv"
    parts.write_text("Id,split\n" + "".join(f"{name},{'val' if k < 20 else 'train'}\n" for k, name in enumerate(ids)))
    # one found by its name, one met in training, one in validation
    _, _, missing, _ = spoil(whole, "missing", ids[41])
    words = whole.command("train", f"data.split={parts}", "data.on_error=quarantine")
    assert refused(*words) == [
        f"{whole.images}/{missing}: missing: green plane",
        "1 of 60 images can not be used, more than data.max_rejected=0.01 allows",
    ]
    run = whole.root / "runs" / "run"
    assert not run.exists()
    _, _, flipped, _ = spoil(whole, "flipped", ids[40])
    _, _, rgb, _ = spoil(whole, "rgb", ids[2])
    *lines, last = refused(*words, "data.max_rejected=0.018")  # the first one it meets is one too many
    assert [line.split(": ")[0] for line in lines] == [f"{whole.images}/{missing}", f"{whole.images}/{flipped}"]
    assert last == "2 of 60 images can not be used, more than data.max_rejected=0.018 allows"
    assert not (run / "model.safetensors").exists()
    done(*words, "data.max_rejected=0.06")  # under the same name: the run before had not finished an epoch
    assert {row[:2] for row in rejected(run)} == {(ids[2], rgb), (ids[40], flipped), (ids[41], missing)}


# ---- training: runs, shards, parts


@pytest.fixture(scope="module")
def shards(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "shards"
    words = ("prepare.num_workers=0", "data.image_size=32", f"prepare.output={folder}")
    done("prepare", f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", *words)
    return folder


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one finished epoch. Do not change it."""
    root = tmp_path_factory.mktemp("trained")
    done("train", f"data.shards={shards}", *training(root))
    return root / "runs" / "run"


def test_runs_that_are_there_and_runs_to_go_on_with(run: Path, shards: Path) -> None:
    words = ("train", f"data.shards={shards}", *training(run.parent.parent))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    there = "choose another run.name, or go on with it by run.resume=true"
    assert refused(*words) == [f"{run}: there is a run of this name already - {there}"]
    assert refused(*words, "run.resume=true", "optim.lr=0.5", "train.epochs=2") == [
        f"{run} was started with other settings - optim.lr: 0.001 there, 0.5 here; train.epochs: 1 there, 2 here: "
        "use those, or another run.name"
    ]
    unnamed = [word for word in words if not word.startswith("run.name")]
    assert refused(*unnamed, "run.resume=true") == ["run.resume=true needs run.name=NAME, the run to go on with"]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_whose_notes_or_checkpoint_are_damaged(run: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "runs" / "run")
    copy = tmp_path / "runs" / "run"
    words = ("train", f"data.shards={shards}", *training(tmp_path), "run.resume=true")
    (checkpoint,) = (copy / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    (told,) = refused(*words)
    assert told.startswith(f"{checkpoint}: ")
    assert "delete it to go on from the one before" in told
    for text in ("{", "x", "\0"):
        (copy / "config.yaml").write_text(text)
        assert refused(*words) == [f"{copy}/config.yaml: damaged - choose another run.name"]


def edit_index(shards: Path, **changes: object) -> None:
    index = json.loads((shards / "index.json").read_text())
    (shards / "index.json").write_text(json.dumps(index | changes))


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
        edit_index(shards, version=7)
        return f"{index}: version is 7, this program reads 1 - prepare again"
    if how == "vocabulary":
        edit_index(shards, vocabulary="other-35")
        return f"{index}: vocabulary is 'other-35', this program reads 'hpa-28' - prepare again"
    if how == "mean":
        edit_index(shards, mean=[0.1])
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
    (shards / "manifest.arrow").write_bytes(b"ARROW1")
    return f"{shards}/manifest.arrow: cannot be read ("


DAMAGES = ["no index", "no folder", "no json", "not ours", "version", "vocabulary", "mean", "channels", "short shard"]
DAMAGES += ["empty shard", "no shard", "no manifest", "manifest"]


@pytest.mark.parametrize("how", DAMAGES)
def test_shards_that_can_not_be_read(how: str, shards: Path, model_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    beginning = damage(copy, how)
    for words in (
        ("train", *training(tmp_path)),
        ("predict", f"predict.run={model_file}", f"predict.output={tmp_path}/predicted"),
    ):
        (told,) = refused(*words, f"data.shards={copy}")
        assert told.startswith(beginning)
    assert not (tmp_path / "predicted").exists()


@pytest.mark.parametrize("how", ["no json", "version", "short shard", "no shard"])
def test_prepare_does_not_take_damaged_shards_for_whole(how: str, atlas: Path, shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    words = ("prepare", f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32")
    words = (*words, "prepare.num_workers=0", f"prepare.output={copy}")
    beginning = damage(copy, how)
    (told,) = refused(*words)
    assert told.startswith(beginning)
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
    assert refused(*data.command("prepare", "data.channels=green")) == [
        f"{data.shards}: holds shards of other images or settings - choose another folder or delete it"
    ]
    (data.shards / "index.json").unlink()
    for path in data.shards.glob("*"):
        path.unlink()
    for plan in (b"", b"[]", b"{", b'{"fingerprint": "x"}'):
        (data.shards / "plan.json").write_bytes(plan)
        assert refused(*data.command("prepare")) == [
            f"{data.shards}: holds an unfinished prepare of other images or settings - choose another folder or "
            "delete it"
        ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["data.images=/x", "data.labels=/y"],
            "data.shards and data.images are both set - shards already hold the images, give one of them",
        ),
        (["data.channels=pink"], f"command line: data.channels = 'pink' - name each stain once, from: {STAINS}"),
        (["data.channels=red,red"], f"command line: data.channels = 'red,red' - name each stain once, from: {STAINS}"),
        (
            ["split.parts=1/2/3"],
            "split.parts = 1/2/3 adds up to 6 rows, the table has 60: write 1/2/57 or 0.167/0.333/0.5",
        ),
        (
            ["split.parts=nonsense"],
            "split.parts = 'nonsense' - write counts (24000/3000/4072), shares (0.8/0.1/0.1) or folds (5 folds)",
        ),
        (["split.parts=5 folds"], "split.parts = '5 folds' - training needs train/val or train/val/test"),
        (["split.parts=99999999999 folds"], "split.parts = '99999999999 folds' - write at most 9999 folds"),
        (["split.parts=0.9/0.2"], "split.parts = 0.9/0.2 adds up to 1.1, shares must add up to 1: write 0.818/0.182"),
        (["split.parts=1"], "split.parts = 1 is one part: write two or more, such as 0.9/0.1"),
        (["split.parts=nan/1"], "split.parts = nan/1 - every part must be greater than 0: leave the others out"),
        (
            ["data.sample_fraction=0.001"],
            "data.sample_fraction = 0.001: of 48 training images none is left - use more",
        ),
        (
            ["data.sample_fraction=0"],
            "command line: data.sample_fraction = '0' - input should be greater than 0",
        ),
        (["train.use_gpu=true"], "train.use_gpu = true, but torch sees no GPU here"),
    ],
)
def test_settings_that_do_not_fit_the_data(words: list[str], told: str, shards: Path, tmp_path: Path) -> None:
    import torch

    if "train.use_gpu=true" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert refused("train", f"data.shards={shards}", *training(tmp_path), *words) == [told]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_fraction_that_is_nearly_all_is_all(shards: Path, tmp_path: Path) -> None:
    words = ("train", f"data.shards={shards}", *training(tmp_path), "run.storage=" + str(tmp_path / "r"))
    parts = tmp_path / "split.csv"
    parts.write_text("Id,split\nx,train\n")  # stops after the fraction would have been drawn, before the training
    told = refused(*words, f"data.split={parts}", "data.sample_fraction=0.999")
    assert told == [f"{parts}: no image of the data is in its part 'train' or 'val'"]
    (told_of_steps,) = refused(*words, "data.sample_fraction=0.999", "optim.lr=1e30")
    assert told_of_steps.startswith("the loss is ")


def test_stains_that_the_shards_do_not_hold(data: Data) -> None:
    done(*data.command("prepare", "data.channels=green,blue"))
    assert refused("train", f"data.shards={data.shards}", *training(data.root)) == [
        f"data.channels asks for red, yellow, but {data.shards} holds green, blue: prepare again"
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Id,split\nA,train\nB,\x1b[2J\n", r"part '\x1b[2J' - expected train, val, test"),
        ("Id,split\nA,train\nB,Train\n", "part 'Train' - expected train, val, test"),
        ("Id,part\nA,train\n", "no column 'split' - `hpa-ray split split.output=FILE` writes such a file"),
        ("Id,split\nA,train\nA,val\n", "Id 'A' stands more than once - an image belongs to one part"),
        ("Id,split\nA,train\n", "no image of the data is in its part 'train' or 'val'"),
        ("Id,split,split\nA,train,val\n", "more than one column 'split' - keep one"),
        ("", "the file is empty - expected a csv with the header Id"),
    ],
)
def test_a_split_that_does_not_fit(text: str, reason: str, data: Data) -> None:
    parts = data.root / "split.csv"
    first, second = data.ids[:2]
    parts.write_text(text.replace("A", first).replace("B", second))
    told = reason.replace("'A'", f"'{first}'").replace("FILE", str(parts))
    assert refused(*data.command("train", f"data.split={parts}")) == [f"{parts}: {told}"]


# ---- predicting


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_models_that_are_none(data: Data, model_file: Path) -> None:
    words = data.command("predict")
    assert refused(*words, f"predict.run={data.root}/nowhere") == [
        f"{data.root}/nowhere/model.safetensors: no such model - "
        "give a run folder that has finished an epoch, or a model.safetensors"
    ]
    spoilt = data.root / "spoilt.safetensors"
    good = model_file.read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])

    def with_header(change: dict[str, object]) -> bytes:
        text = json.dumps(header | change).encode()
        return len(text).to_bytes(8, "little") + text + good[8 + length :]

    card = json.loads(header["__metadata__"]["hpa_ray"])
    other_names = {f"x{name}": value for name, value in header.items() if name != "__metadata__"}
    renamed = json.dumps({"__metadata__": header["__metadata__"], **other_names}).encode()
    for content, reason in (
        (b"", "not a model file of this program ("),
        (b"x" * 100, "not a model file of this program ("),
        (good[:-100], "not a model file of this program ("),
        (with_header({"__metadata__": {"format": "pt"}}), "not a model file of this program (it has no model card)"),
        (with_header({"__metadata__": {"hpa_ray": "{}"}}), "not a model file of this program ("),
        (
            with_header({"__metadata__": {"hpa_ray": json.dumps(card | {"vocabulary": "other"})}}),
            "its vocabulary is 'other', this program reads 'hpa-28'",
        ),
        (
            with_header({"__metadata__": {"hpa_ray": json.dumps(card | {"architecture": "vit"})}}),
            "the weights do not fit vit (",
        ),
        (
            len(renamed).to_bytes(8, "little") + renamed + good[8 + length :],
            "the weights do not fit resnet18 (",
        ),
    ):
        spoilt.write_bytes(content)
        (told,) = refused(*words, f"predict.run={spoilt}")
        assert told.startswith(f"{spoilt}: {reason}")
        assert len(told) < 400
    assert not (data.root / "predicted").exists()
    assert refused("predict", f"data.images={data.images}") == [
        "predict needs predict.run=RUN_FOLDER and predict.output=FOLDER"
    ]


@pytest.mark.parametrize("source", ["images", "shards"])
def test_a_submission_with_ids_that_have_no_images(source: str, data: Data) -> None:
    order = [data.ids[5], "nowhere-2", *data.ids[:3], "nowhere-1"]
    sample = data.root / "sample.csv"
    sample.write_text("Id,Predicted\n" + "".join(f"{name},0\n" for name in order))
    words = data.command("predict", f"predict.submission={sample}")
    where = data.images
    if source == "shards":
        done(*data.command("prepare"))
        where = data.shards
        words = (*(word for word in words if not word.startswith("data.images")), f"data.shards={where}")
    lines = [f"{where}/nowhere-{n}_red.png: no image of this Id" for n in (1, 2)]
    assert refused(*words) == [*lines, f"2 of 6 images can not be used: {ADVICE}"]
    told = refused(*words, "data.on_error=quarantine")
    assert told == [*lines, "2 of 6 images can not be used, more than data.max_rejected=0.01 allows"]
    assert not (data.root / "predicted").exists()

    said = done(*words, "data.on_error=quarantine", "data.max_rejected=0.4")
    assert "2 rows of submission.csv have no prediction and carry the most frequent label set" in said
    rows = read_csv(data.root / "predicted" / "submission.csv")
    assert [row["Id"] for row in rows] == order
    assert all(set(row["Predicted"].split()) <= {str(k) for k in range(28)} and row["Predicted"] for row in rows)
    assert [row[0] for row in rejected(data.root / "predicted")] == ["nowhere-1", "nowhere-2"]
    predicted = pq.read_table(data.root / "predicted" / "predictions.parquet")["image_id"].to_pylist()
    assert sorted(predicted) == sorted(set(order) & set(data.ids))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty - expected a csv with the header Id"),
        ("Id,Predicted\n", "no rows below the header"),
        ("Image,Predicted\na,0\n", "no column 'Id' - its columns are: Image, Predicted"),
        ("Id\na\na\n", "line 3: Id 'a' stands more than once - keep one row"),
        ('Id\n"a\nb"\n', r"line 2: Id 'a\nb' - letters, digits and _ . - only"),
        ("Id\n../a\n", "line 2: Id '../a' - letters, digits and _ . - only"),
    ],
)
def test_a_submission_that_is_none(text: str, reason: str, data: Data) -> None:
    sample = data.root / "sample.csv"
    sample.write_text(text)
    assert refused(*data.command("predict", f"predict.submission={sample}")) == [f"{sample}: {reason}"]
    assert not (data.root / "predicted").exists()


# ---- the machine is too small


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or (tried := subprocess.run(mount, capture_output=True, text=True)).returncode:
        reason = "no mount command" if shutil.which("mount") is None else tried.stderr.strip()
        pytest.skip(f"a small disk can not be mounted here ({reason}); it takes Linux and root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_told_before_anything_is_decoded(data: Data, small_disk: Path) -> None:
    output = small_disk / "shards"
    words = data.command("prepare", f"prepare.output={output}", "data.image_size=256")
    assert refused(*words) == [
        f"prepare.output = {output}: the shards need 3 MiB, the disk has 2 MiB free - "
        "free some, choose another folder or a smaller data.image_size"
    ]
    assert [path.name for path in output.rglob("*") if path.suffix != ".json"] == []
    assert not (output / "index.json").exists()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    done(*words)


def test_a_disk_that_fills_up_on_the_way(whole: Data, small_disk: Path) -> None:
    """Space for the pixels, as was estimated, but not for a byte more: the last shard finds the disk full."""
    for name, (number, path) in itertools.product(("b", "c"), enumerate(sorted(whole.images.glob("*.png")))):
        os.link(path, whole.images / f"{name}{path.name}")
        if number % 4 == 0:
            with whole.labels.open("a") as file:
                file.write(f"{name}{path.name.rsplit('_', 1)[0]},1\n")
    output = small_disk / "shards"
    words = whole.command("prepare", f"prepare.output={output}")
    num_bytes = 180 * 4 * 32 * 32
    page = os.sysconf("SC_PAGE_SIZE")
    free = shutil.disk_usage(small_disk).free
    filler = small_disk / "filler"
    filler.write_bytes(bytes(free - num_bytes - page))  # a page for the plan, which comes first
    assert refused(*words) == [
        f"prepare.output = {output}: no space left on the disk - free some and run the same command again, "
        "it goes on where it was"
    ]
    finished = {path: path.stat().st_mtime_ns for path in output.glob("*.arrow")}
    assert 0 < len(finished) < 3
    assert not (output / "index.json").exists()
    assert not list(output.rglob("*.tmp"))
    assert refused("train", f"data.shards={output}", *training(whole.root))[0].startswith(
        f"data.shards = {output}: no index.json"
    )
    assert refused(*words)[0].startswith(f"prepare.output = {output}: ")  # still full

    filler.unlink()
    noted = {path.stem for path in (output / "parts").glob("*.json")}
    done(*words)
    index = json.loads((output / "index.json").read_text())
    assert index["num_images"] == 180
    assert len(index["shards"]) == 3
    assert noted
    assert all(path.stat().st_mtime_ns == finished[path] for path in finished if path.stem in noted)
    assert sorted(path.name for path in output.iterdir()) == sorted(
        ["index.json", "manifest.arrow", "rejected.parquet", *(f"shard-0000{n}.arrow" for n in range(3))]
    )


def ray_is_here() -> bool:
    def command(process: Path) -> bytes:
        try:
            return (process / "cmdline").read_bytes()
        except OSError:  # it has ended
            return b""

    return any(b"gcs_server" in command(process) for process in Path("/proc").glob("[0-9]*"))


def test_more_workers_than_cpus_are_refused_before_anything_heavy_starts(tmp_path: Path) -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("children of a process are counted in /proc, which is not here")
    if ray_is_here():
        pytest.skip("a Ray cluster runs on this machine, which the command would join")
    code = f"""
import os, sys
from hpa_ray.cli.main import main
code = main(["train", "train.num_workers=500", "run.storage={tmp_path}/runs"])
import ray
children = open(f"/proc/self/task/{{os.getpid()}}/children").read().split()
print(code, "torch" in sys.modules, ray.is_initialized(), children)
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.stdout == "2 False False []\n"
    assert result.stderr == (
        f"hpa-ray train: train.num_workers = 500, but this machine has {os.cpu_count()} CPUs: "
        "use fewer workers or a larger cluster\n"
    )
    assert not (tmp_path / "runs").exists()


# ---- anything at all

FUZZ = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
CELL = st.text(st.characters(codec="utf-8"), max_size=8)
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


@FUZZ
@given(
    st.binary(max_size=40) | st.text(st.sampled_from("abdt:{}[]&*!?-'\" \n\t#|>%@.01x"), max_size=30).map(str.encode)
)
def test_any_bytes_as_a_configuration(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    assert call("config", "show", "--config", str(file))[0] in (0, 2)


WORDS = st.one_of(
    CELL,
    st.builds("{}={}".format, st.sampled_from(sorted(config_keys())), CELL | st.integers() | st.floats()),
    st.sampled_from(["--strict", "--help", "--", "-1", "--recipe", "--config"]),
)


@FUZZ
@given(st.lists(WORDS, max_size=4))
def test_any_words(words: list[str]) -> None:
    assert call("config", *words)[0] in (0, 2)
    assert call(*words, "data.image_size=1")[0] in (0, 2)


@FUZZ
@given(st.lists(st.builds("data.{}={}".format, st.sampled_from(["images", "labels", "channels", "shards"]), CELL)))
def test_any_places(data: Data, words: list[str]) -> None:
    with contextlib.chdir(data.root):
        # with no place left it is the synthetic atlas that is checked
        assert call(*data.command("check", *words), "synth.num_images=2", "synth.image_size=32")[0] in (0, 2)


def test_the_words_of_a_dumped_configuration_are_one_line_each(tmp_path: Path) -> None:
    said = done("config", "show", "data.images=a\nb\x1b[2J")
    assert yaml.safe_load("\n".join(said))["data"]["images"] == "a\nb\x1b[2J"
