"""Data to be spoilt, and how to call a verb and see what it tells: for the tests of what users get wrong.

Everything runs through the command line's `main` in this process, without Ray.
"""

import contextlib
import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from small_model import RESNET18, small_model

from hpa_ray.checkpoint.model_file import ModelCard, save_model
from hpa_ray.cli.main import main
from hpa_ray.labels import NUM_CLASSES

STAINS = "red, green, blue, yellow"
ADVICE = "mend them, or leave such images out with data.on_error=quarantine"
NO_IMAGES = f"no files named <Id>_<color>.png (or tif, tiff, jpg, jpeg), color one of {STAINS}"
FUZZ = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
CELL = st.text(st.characters(codec="utf-8"), max_size=8)


def call(*words: str) -> tuple[int, list[str], list[str]]:
    """Exit code and the lines of both outputs, which never hold a traceback or a character that moves the cursor."""
    out, err, ray_before = io.StringIO(), io.StringIO(), ray_runs()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    for text in (out.getvalue(), err.getvalue()):
        assert "Traceback" not in text, text
        assert all(char.isprintable() for char in text.replace("\n", "")), repr(text)
    assert ray_runs() == ray_before, words
    return code, out.getvalue().splitlines(), err.getvalue().splitlines()


def ray_runs() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def refused(*words: str) -> list[str]:
    """What is told of a mistake, a line each, without the name of the command."""
    code, said, told = call(*words)
    assert code == 2, (words, code, said, told)
    who = f"hpa-ray {words[0]}: "
    assert told, words
    assert all(line.startswith(who) for line in told), told
    return [line.removeprefix(who) for line in told]


def done(*words: str) -> list[str]:
    code, said, told = call(*words)
    assert code == 0, (words, told)
    assert told == [], told
    return said


def training(root: Path) -> list[str]:
    words = ["train.num_workers=0", "model.name=resnet18", "train.epochs=1", "optim.warmup_epochs=0"]
    return [*words, "run.name=run", f"run.storage={root}/runs"]


class Data(NamedTuple):
    """Images and labels of a test's own, and what to type."""

    root: Path
    model: Path | None = None

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
            "explore": [f"explore.output={self.root}/explored"],
            "duplicates": [f"duplicates.output={self.root}/doubles", "duplicates.num_workers=0"],
            "split": [f"split.output={self.root}/parts/split.csv"],
            "prepare": [f"prepare.output={self.shards}", "prepare.num_workers=0"],
            "train": training(self.root),
            "predict": [f"predict.run={self.model}", f"predict.output={self.root}/predicted"],
        }[verb]
        return (*words, *more)

    def unfinished(self) -> bool:
        """Whether nothing is there that a later run could take for whole."""
        results = [self.root / name for name in ("predicted", "explored", "doubles", "parts")]
        return not any(path.exists() for path in (self.shards / "index.json", *results, *self.root.rglob("*.tmp")))

    def index(self) -> dict[str, object]:
        index: dict[str, object] = json.loads((self.shards / "index.json").read_text())
        return index


def first_images(atlas: Path, root: Path, num_images: int, model: Path | None = None) -> Data:
    """Copies of the first images of an atlas and of their labels."""
    lines = (atlas / "train.csv").read_text().splitlines()[: num_images + 1]
    (root / "train").mkdir(parents=True)
    for line in lines[1:]:
        for file in (atlas / "train").glob(f"{line.split(',')[0]}_*.png"):
            shutil.copy(file, root / "train")
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    return Data(root, model)


def prepared(atlas: Path, folder: Path) -> Path:
    """Shards of all images of an atlas."""
    words = ("prepare.num_workers=0", "data.image_size=32", f"prepare.output={folder}")
    done("prepare", f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", *words)
    return folder


def born_model(folder: Path) -> Path:
    """A model with the weights it was born with."""
    model = small_model([0.1] * 4, [0.1] * 4)
    card = ModelCard(
        channels=("red", "green", "blue", "yellow"),
        image_size=32,
        model=RESNET18,
        run="born",
        epoch=0,
        thresholds=(0.5,) * NUM_CLASSES,
        config="",
    )
    path = folder / "model.safetensors"
    save_model(str(path), model, card)
    return path


def flip_a_pixel_byte(png: bytes) -> bytes:
    at = png.index(b"IDAT") + 20
    return png[:at] + bytes([png[at] ^ 1]) + png[at + 1 :]


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rejected(folder: Path) -> list[tuple[str, str, str]]:
    return [tuple(row.values()) for row in pq.read_table(folder / "rejected.parquet").to_pylist()]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
