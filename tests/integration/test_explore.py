"""`explore` from a command line to the page, on each form of data."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpa_ray.cli.main import main
from hpa_ray.explore import draw_images, draw_samples, label_numbers
from hpa_ray.explore.opened import source_names
from hpa_ray.labels import multi_hot
from hpa_ray.manifest import multi_hot_column, read_label_table

NUM_IMAGES = 10
CHARTS = ("class_distribution", "labels_per_image", "cooccurrence", "correlation", "intensities")


@pytest.fixture(scope="module")
def few(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of the atlas, under a name that a page must not take for its own."""
    folder = tmp_path_factory.mktemp("few") / "<script>alert(1)<"
    (folder / "train").mkdir(parents=True)
    for path in sorted((atlas / "train").iterdir())[: 4 * NUM_IMAGES]:
        shutil.copy(path, folder / "train")
    ids = {path.name.rpartition("_")[0] for path in (folder / "train").iterdir()}
    header, *rows = (atlas / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([header, *(row for row in rows if row.split(",")[0] in ids)]) + "\n")
    return folder


def explore(output: Path, *words: str) -> tuple[dict[str, Any], str]:
    assert main(["explore", f"explore.output={output}", "explore.samples_per_class=1", *words]) == 0
    return json.loads((output / "explore.json").read_text()), (output / "explore.html").read_text()


def test_images_with_labels(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = few / "train", few / "train.csv"
    result, html = explore(tmp_path, f"data.images={images}", f"data.labels={labels}", "data.image_size=64")
    targets = multi_hot_column(read_label_table(str(labels)).labels)
    assert [row["images"] for row in result["labels"]["classes"]] == targets.sum(axis=0).tolist()
    present = np.flatnonzero(targets.any(axis=0))
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    charts = {f"{name}.{kind}" for name in CHARTS for kind in ("png", "svg")}
    assert figures == charts | {f"samples_class_{k:02d}.png" for k in present}
    assert {f"figures/{name}" for name in figures} == set(result["figures"])
    assert html.count("data:image/jpeg") == len(present)
    for address in re.findall(r'(?:src|href)="([^"]{0,40})', html):
        assert address.startswith(("data:", "#", "./figures/")), address
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html
    for row in result["intensities"]:
        planes = [np.asarray(Image.open(path)) for path in images.glob(f"*_{row['stain']}.png")]
        assert row["mean"] == pytest.approx(np.mean(planes) / 255, abs=1e-6)
        assert row["std"] == pytest.approx(np.std(planes) / 255, abs=1e-6)
    assert [row["stain"] for row in result["intensities"]] == ["red", "green", "blue", "yellow"]
    assert "next: hpa-ray duplicates" in capsys.readouterr().out


def test_images_without_labels_one_of_them_unreadable(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(few / "train", images)
    broken = sorted(images.iterdir())[0]
    broken.write_bytes(b"no image")
    result, html = explore(tmp_path / "out", f"data.images={images}", "data.image_size=32")
    assert "labels" not in result
    assert set(result["figures"]) == {"figures/samples.png", "figures/intensities.png", "figures/intensities.svg"}
    assert result["num_rejected"] == 1, "though it was read twice"
    assert broken.name in result["problems"][0]
    assert broken.name in html
    assert broken.name in capsys.readouterr().out


def test_the_real_labels_are_counted_as_the_competition_has_them(real_data: Path) -> None:
    numbers = label_numbers(multi_hot_column(read_label_table(str(real_data / "train.csv")).labels))
    assert numbers.is_competition
    assert numbers.per_image == {1: 15126, 2: 12485, 3: 3160, 4: 299, 5: 2}
    assert (numbers.counts_K.sum(), len(numbers.sets)) == (50782, 577)
    assert numbers.sets[:3] == [((0,), 2414), ((0, 25), 1998), ((23,), 1653)]
    assert numbers.imbalance == pytest.approx(12885 / 11)
    assert numbers.both_KK[10, 9] == 28, "all lysosomes are endosomes too"
    assert numbers.pairs()[0] == (9, 10)


def test_samples_have_their_class_and_do_not_change() -> None:
    targets = multi_hot([[0], [0, 1], [1], [0], [2]] * 4)
    drawn = draw_samples(targets, 3, seed=7)
    assert {k: len(rows) for k, rows in drawn.items()} == {0: 3, 1: 3, 2: 3}
    assert all(targets[row, k] for k, rows in drawn.items() for row in rows if k is not None)
    assert drawn == draw_samples(targets, 3, seed=7)
    assert drawn != draw_samples(targets, 3, seed=8)


def test_every_source_is_looked_at_alike() -> None:
    source = np.repeat([0, 1, 2], [1000, 50, 3]).astype(np.int8)
    rows = draw_images(source, 23, seed=0)
    assert np.bincount(source[rows]).tolist() == [10, 10, 3]
    assert len(set(rows.tolist())) == 23
    assert len(draw_images(source, 5000, seed=0)) == 1053


def test_label_numbers_of_a_few() -> None:
    numbers = label_numbers(multi_hot([[0], [0, 1], [0, 1], [], [2]]))
    assert numbers.counts_K[:4].tolist() == [3, 2, 1, 0]
    assert numbers.alone_K[:4].tolist() == [1, 0, 1, 0]
    assert numbers.partner_K[:4].tolist() == [1, 0, -1, -1]
    assert numbers.per_image == {0: 1, 1: 2, 2: 2}
    assert numbers.sets[0] == ((0, 1), 2)
    assert numbers.imbalance == 3
    assert numbers.pairs()[0] == (0, 1)
    json.dumps(numbers.as_json(), allow_nan=False)


def test_sources_are_told_apart() -> None:
    assert source_names(["/a/train", "s3://b/hpa?region=x"]) == ["train", "hpa"]
    assert source_names(["/a/train", "/b/train/"]) == ["a/train", "b/train"]
    assert source_names(["/x/a/train", "/y/a/train"]) == ["a/train (1)", "a/train (2)"]
