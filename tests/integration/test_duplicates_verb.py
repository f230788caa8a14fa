"""`hpa-ray duplicates` on folders with planted copies: what it finds, writes and refuses, without Ray."""

import contextlib
import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.cli.main import main

Plane = Callable[[np.ndarray], np.ndarray]


def call(*words: str) -> tuple[int, list[str], list[str]]:
    """Exit code and the lines of both outputs; the last line of the first one is the result as JSON where it is 0."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(("duplicates", "duplicates.num_workers=0", *words), json_line=True)
    return code, out.getvalue().splitlines(), err.getvalue().splitlines()


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def plant(folder: Path, image_id: str, name: str, into: Path, change: Plane, extension: str = "png") -> None:
    for stain in STAINS:
        plane = np.asarray(Image.open(folder / f"{image_id}_{stain}.png"))
        Image.fromarray(change(plane)).save(into / f"{name}_{stain}.{extension}")


@pytest.fixture(scope="module")
def copied(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas with copies: half-size, brighter with other labels, JPEG in a second folder, and two black images."""
    root = tmp_path_factory.mktemp("copied")
    shutil.copytree(atlas / "train", root / "train")
    (root / "more").mkdir()
    rows = table(atlas / "train.csv")
    ids = [row["Id"] for row in rows]

    def add(name: str, target: str) -> None:
        rows.append({"Id": name, "Target": target})

    plant(
        root / "train",
        ids[0],
        "half",
        root / "train",
        lambda plane: plane.reshape(32, 2, 32, 2).mean((1, 3)).astype(np.uint8),
    )
    add("half", rows[0]["Target"])
    plant(root / "train", ids[1], "dimmer", root / "train", lambda plane: (plane * 0.7).astype(np.uint8))
    add("dimmer", "27" if rows[1]["Target"] != "27" else "26")
    for name in ("black-1", "black-2"):
        plant(root / "train", ids[2], name, root / "train", np.zeros_like)
        add(name, "0")
    plant(root / "train", ids[3], "10_A1_1", root / "more", lambda plane: plane, "jpg")
    plant(root / "train", ids[4], "10_A1_2", root / "more", lambda plane: plane[::-1])
    more = [{"Id": "10_A1_1", "Target": rows[3]["Target"]}, {"Id": "10_A1_2", "Target": rows[4]["Target"]}]
    for path, some in ((root / "train.csv", rows), (root / "more" / "labels.csv", more)):
        path.write_text("Id,Target\n" + "".join(f"{row['Id']},{row['Target']}\n" for row in some))
    return root


def test_copies_are_found_in_every_form_and_across_sources(copied: Path, tmp_path: Path) -> None:
    ids = [row["Id"] for row in table(copied / "train.csv")]
    words = [f"data.images={copied}/train", f"data.labels={copied}/train.csv", f"data.extra={copied}/more"]
    code, said, _ = call(*words, f"duplicates.output={tmp_path}/found")
    assert code == 0
    expected = {frozenset({ids[0], "half"}), frozenset({ids[1], "dimmer"}), frozenset({ids[3], "10_A1_1"})}
    groups: dict[str, set[str]] = {}
    for row in table(tmp_path / "found" / "groups.csv"):
        groups.setdefault(row["group"], set()).add(row["Id"])
    assert {frozenset(group) for group in groups.values()} == expected
    assert all(name == min(group) for name, group in groups.items())
    pairs = {frozenset({row["a"], row["b"]}): row for row in table(tmp_path / "found" / "pairs.csv")}
    assert set(pairs) == expected
    contradicting = pairs[frozenset({ids[1], "dimmer"})]
    assert (contradicting["same_labels"], contradicting["source_a"], contradicting["source_b"]) == ("no", "0", "0")
    across = pairs[frozenset({ids[3], "10_A1_1"})]
    assert (across["same_labels"], {across["source_a"], across["source_b"]}) == ("yes", {"0", "1"})
    result = json.loads(said[-1])
    counts = ("num_images", "num_compared", "num_pairs", "num_groups", "num_contradicting", "num_across")
    assert [result[name] for name in counts] == [66, 64, 3, 3, 1, 1]
    assert said[-2].startswith("next: hpa-ray split")
    assert result["groups"] in said[-2]

    page = (tmp_path / "found" / "duplicates.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert page.count("CONTRADICTING LABELS") == 1
    assert all(name in page for name in ("half", "dimmer", "10_A1_1"))
    assert "black-1" not in page


def test_without_labels_and_pictures(copied: Path, tmp_path: Path) -> None:
    code, said, _ = call(f"data.images={copied}/train", f"duplicates.output={tmp_path}", "duplicates.num_pictured=0")
    assert code == 0
    assert json.loads(said[-1])["num_pairs"] == 2
    assert {row["same_labels"] for row in table(tmp_path / "pairs.csv")} == {""}
    assert "data:image" not in (tmp_path / "duplicates.html").read_text()


def test_shards_give_the_same_groups_as_the_files(copied: Path, tmp_path: Path) -> None:
    words = [f"data.images={copied}/train", f"data.labels={copied}/train.csv"]
    size = ["data.image_size=64", "prepare.num_workers=0"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(("prepare", *words, f"prepare.output={tmp_path}/shards", *size)) == 0
    assert call(*words, f"duplicates.output={tmp_path}/files")[0] == 0
    code, said, _ = call(f"data.shards={tmp_path}/shards", f"duplicates.output={tmp_path}/from-shards")
    assert code == 0
    for name in ("groups.csv", "pairs.csv"):
        assert (tmp_path / "from-shards" / name).read_bytes() == (tmp_path / "files" / name).read_bytes()
    assert json.loads(said[-1])["num_groups"] == 2
    pages = [(tmp_path / name / "duplicates.html").read_text() for name in ("files", "from-shards")]
    pictures, others = (set(re.findall(r"data:image/jpeg;base64,([^\"]+)", page)) for page in pages)
    assert (len(pictures), len(others), len(pictures & others)) == (4, 4, 3)  # the half-sized one is a bit softer


def test_a_smaller_distance_leaves_more_apart(copied: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    image_id = table(copied / "train.csv")[5]["Id"]
    plant(copied / "train", image_id, "first", images, lambda plane: plane)
    plant(copied / "train", image_id, "same", images, lambda plane: plane)
    plant(copied / "train", image_id, "moved", images, lambda plane: np.roll(plane, 2, axis=0))
    found = []
    for bits in (0, 24):
        code, _, _ = call(f"data.images={images}", f"duplicates.output={tmp_path}", f"duplicates.max_distance={bits}")
        assert code == 0
        rows = table(tmp_path / "pairs.csv")
        assert all(int(row[f"distance_{stain}"] or 0) <= bits for row in rows for stain in STAINS)
        found.append({row["Id"] for row in table(tmp_path / "groups.csv")})
    assert found == [{"first", "same"}, {"first", "same", "moved"}]


def test_a_damaged_file_stops_it_or_is_left_out(copied: Path, tmp_path: Path) -> None:
    shutil.copytree(copied / "train", tmp_path / "train")
    (tmp_path / "train" / "half_blue.png").write_bytes(b"\x89PNG but no more")
    words = [f"data.images={tmp_path}/train", f"duplicates.output={tmp_path}/found"]
    code, _, told = call(*words)
    assert code == 2
    assert any("half_blue.png" in line for line in told)
    assert not (tmp_path / "found").exists()
    code, said, _ = call(*words, "data.on_error=quarantine", "data.max_rejected=0.05")
    assert code == 0
    result = json.loads(said[-1])
    assert (result["num_rejected"], result["num_images"], result["num_pairs"]) == (1, 63, 1)
    assert "half" not in {row["Id"] for row in table(tmp_path / "found" / "groups.csv")}
