"""Real files of every kind through `check` and `prepare`: what each is taken for, what becomes of unusable ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpa_ray.channels import STAINS
from hpa_ray.cli.main import main
from hpa_ray.shards import open_shards

SINGLE_CELL, MOSAICS = "images_other/PRBioimages_Singlecell", "images_other/PRBioimages_DULoc"
GRAY_PNG = {stain: {"8-bit gray PNG"} for stain in STAINS}
GRAY_JPEG = {stain: {"8-bit gray JPEG"} for stain in STAINS}
COLOURED = {
    "red": {"RGB JPEG, plane R"},  # named .png, and JPEG within
    "green": {"RGB JPEG, plane G"},
    "blue": {"RGB JPEG, plane B"},
    "yellow": {"RGB JPEG, mean of planes R and G"},
}


def check(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["check", f"data.images={folder}", *words], json_line=True) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


def prepare(folder: Path, output: Path, tmp_path: Path, *words: str) -> int:
    """All images of a folder, with a made-up label each."""
    ids = sorted({path.name.rpartition("_")[0] for path in folder.iterdir()} - {"383_D2_1_blue"})
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "".join(f"{image_id},0\n" for image_id in ids))
    data = [f"data.images={folder}", f"data.labels={tmp_path}/labels.csv", "data.image_size=432"]
    return main(["prepare", *data, f"prepare.output={output}", "prepare.num_workers=0", *words])


@pytest.mark.parametrize(
    ("folder", "num_images", "sizes", "formats"),
    [
        ("images", 4, {"2048 x 2048", "3072 x 3072"}, GRAY_PNG),
        (f"{SINGLE_CELL}/gray", 1, {"1728 x 1728"}, GRAY_PNG),
        (f"{SINGLE_CELL}/rgb", 1, {"1728 x 1728"}, COLOURED),
        (f"{MOSAICS}/img_comb4", 11, {"1536 x 1536"}, GRAY_JPEG),
    ],
)
def test_whole_sets_are_taken_for_what_they_are(
    real_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    num_images: int,
    sizes: set[str],
    formats: dict[str, set[str]],
) -> None:
    found = check(real_data / folder, capsys)
    assert (found["num_usable"], found["num_problems"]) == (num_images, 0)
    assert found["sizes_px"].keys() == sizes
    assert {stain: set(rules) for stain, rules in found["formats"].items()} == formats
    assert prepare(real_data / folder, tmp_path / "out", tmp_path) == 0
    assert open_shards(str(tmp_path / "out"), STAINS)[0].index.num_images == num_images


def test_an_incomplete_set_is_refused_or_left_out_as_asked(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = real_data / SINGLE_CELL / "incomplete"
    found = check(folder, capsys)
    assert found["num_usable"] == 0
    (reject,) = found["rejected"]
    assert reject["reason"] == "missing: red, yellow plane"
    assert found["other_files"] == ["383_D2_1_blue_16bit.png"]
    assert prepare(folder, tmp_path / "out", tmp_path) == 2
    assert "missing: red, yellow plane" in capsys.readouterr().err
    words = ["data.on_error=quarantine", "data.max_rejected=1"]
    assert prepare(folder, tmp_path / "out", tmp_path, *words) == 2
    assert "none of the 1 labelled images can be used" in capsys.readouterr().err
    assert prepare(folder, tmp_path / "out", tmp_path, "data.channels=blue,green") == 0


def test_sixteen_bits_and_eight_give_the_same_plane_but_for_rounding(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = real_data / SINGLE_CELL / "incomplete"
    planes = []
    for number, name in enumerate(["383_D2_1_blue.png", "383_D2_1_blue_16bit.png"]):
        folder = tmp_path / f"bits-{number}"
        folder.mkdir()
        (folder / "a_blue.png").symlink_to(original / name)
        found = check(folder, capsys, "data.channels=blue")
        planes.append(list(found["formats"]["blue"]))
        assert prepare(folder, tmp_path / f"out-{number}", tmp_path, "data.channels=blue") == 0
    assert planes == [["8-bit gray PNG"], ["16-bit gray PNG, 65535 -> 255"]]
    eight, sixteen = (
        open_shards(str(tmp_path / f"out-{number}"), ("blue",))[0].read(np.arange(1)).pixels_BCSS for number in (0, 1)
    )
    assert np.abs(eight.astype(int) - sixteen).max() <= 1  # theirs is the upper byte, ours the nearest level


def test_the_coloured_and_the_gray_version_of_a_field_give_nearly_the_same_planes(
    real_data: Path, tmp_path: Path
) -> None:
    planes = []
    for version in ("gray", "rgb"):
        assert prepare(real_data / SINGLE_CELL / version, tmp_path / version, tmp_path) == 0
        planes.append(open_shards(str(tmp_path / version), STAINS)[0].read(np.arange(1)).pixels_BCSS[0])
    for stain, gray, coloured in zip(STAINS, *planes, strict=True):
        correlation = np.corrcoef(gray.ravel(), coloured.ravel())[0, 1]
        print(f"{stain}: {correlation:.4f}")
        assert correlation > 0.99, stain
