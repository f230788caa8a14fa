"""The data of a run: sources joined, intensities matched, parts that do not leak."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.config import load_config
from hpa_ray.errors import InputError
from hpa_ray.ingest import prepare
from hpa_ray.manifest import assign_parts, open_images, read_group_table
from hpa_ray.stream import open_data

NUM_MAIN, NUM_EXTRA = 40, 20


def write_source(folder: Path, prefix: str, count: int, *, level: int, spread: int) -> None:
    """Images of noise around a level, and their labels.csv."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(level)
    lines = ["Id,Target"]
    for k in range(count):
        for stain in STAINS:
            plane = rng.integers(level - spread, level + spread + 1, (16, 16)).astype(np.uint8)
            Image.fromarray(plane).save(folder / f"{prefix}{k:02d}_{stain}.png")
        lines.append(f"{prefix}{k:02d},{k % 3}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    write_source(root / "main", "m", NUM_MAIN, level=60, spread=20)
    write_source(root / "extra", "x", NUM_EXTRA, level=120, spread=50)
    return root


@pytest.fixture(scope="module")
def words(sources: Path) -> list[str]:
    return [
        *(f"data.images={sources}/main", f"data.labels={sources}/main/labels.csv", f"data.extra={sources}/extra"),
        *("data.image_size=16", "split.parts=0.5/0.25/0.25"),
    ]


def test_images_of_further_sources_only_train(words: list[str]) -> None:
    data = open_data(load_config(words))
    assert data.source_N.sum() == NUM_EXTRA
    assert {part: len(rows) for part, rows in data.parts.items()} == {"train": 20 + NUM_EXTRA, "val": 10, "test": 10}
    assert set(data.source_N[data.parts["val"]]) == set(data.source_N[data.parts["test"]]) == {0}
    alike = open_data(load_config([*words, "split.extra=all"]))
    assert alike.source_N[alike.parts["val"]].any()
    assert sum(len(rows) for rows in alike.parts.values()) == NUM_MAIN + NUM_EXTRA


@pytest.mark.parametrize("stored", [False, True])
def test_every_source_is_brought_to_the_intensities_of_the_first(
    words: list[str], tmp_path: Path, stored: bool
) -> None:
    """By the pixels of files as by the statistics in the index of shards."""
    torch = pytest.importorskip("torch")
    from hpa_ray.stream.device import SourceMatch

    config = load_config(words)
    if stored:
        folder = str(tmp_path / "shards")
        prepare(open_images(config.data), output=folder, channels=STAINS, sizes={16: folder}, num_workers=0)
        config = load_config([f"data.shards={folder}", *words[-1:]])
    data = open_data(config)
    assert data.mean == pytest.approx((60 / 255,) * 4, abs=0.01)
    rows = np.arange(len(data.image_ids))
    pixels = data.source.read(rows).pixels_BCSS
    matched = SourceMatch(data.source_N, data.matching, torch.device("cpu"))(torch.from_numpy(pixels.copy()), rows)
    first, second = (matched[torch.from_numpy(data.source_N == number)].numpy() for number in (0, 1))
    assert np.array_equal(first, pixels[data.source_N == 0].astype(np.float32))
    assert second.mean() == pytest.approx(first.mean(), abs=0.5)
    assert second.std() == pytest.approx(first.std(), rel=0.03)
    assert pixels[data.source_N == 1].mean() == pytest.approx(120, abs=2)  # as it was


def test_one_source_stays_in_bytes(words: list[str]) -> None:
    torch = pytest.importorskip("torch")
    from hpa_ray.stream.device import SourceMatch

    data = open_data(load_config([word for word in words if "extra" not in word]))
    assert data.matching is None
    pixels = torch.zeros(2, 4, 16, 16, dtype=torch.uint8)
    assert SourceMatch(data.source_N, data.matching, torch.device("cpu"))(pixels, np.arange(2)) is pixels


def test_a_group_is_never_in_two_parts(words: list[str], tmp_path: Path) -> None:
    """Pairs within the first source, and pairs of it with images of the second."""
    groups = tmp_path / "groups.csv"
    lines = [f"m{k:02d},g{k // 2}" for k in range(NUM_MAIN)] + [f"x{k:02d},g{k}" for k in range(10)]
    groups.write_text("\n".join(["Id,group", *lines]) + "\n")
    data = open_data(load_config([*words, f"data.groups={groups}"]))
    ids = data.image_ids.to_pylist()
    assert not {f"x{k:02d}" for k in range(10)} & set(ids)  # the first source has them already
    assert {f"x{k:02d}" for k in range(10, NUM_EXTRA)} <= set(ids)
    part_of = {ids[row]: part for part, rows in data.parts.items() for row in rows}
    assert len(part_of) == len(ids)
    for k in range(0, NUM_MAIN, 2):
        assert part_of[f"m{k:02d}"] == part_of[f"m{k + 1:02d}"], k
    assert any("in more than one source" in note for note in data.notes)


def test_groups_of_other_data_are_refused(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("Id,group\nz0,a\nz1,a\n")
    for some in (words, [word for word in words if "extra" not in word]):
        with pytest.raises(InputError, match=r"groups\.csv: none of its Ids is an image of the data"):
            open_data(load_config([*some, f"data.groups={tmp_path}/groups.csv"]))


def test_an_extra_image_that_shows_what_validates_is_left_out(tmp_path: Path) -> None:
    ids = pa.array([f"m{k}" for k in range(8)] + ["x0", "x1", "x2"])
    (tmp_path / "groups.csv").write_text("Id,group\nm7,a\nx0,a\n")
    targets = np.zeros((11, 28), np.uint8)
    targets[:, 0] = 1
    source_N = np.array([0] * 8 + [1] * 3, np.int8)
    seen = set()
    for seed in range(12):
        numbers = assign_parts(
            ids,
            targets,
            [0.5, 0.5],
            seed=seed,
            source_N=source_N,
            groups=read_group_table(str(tmp_path / "groups.csv")),
            extra="train",
        )
        assert sorted(numbers[:8].tolist()) == [0] * 4 + [1] * 4
        assert numbers[9:].tolist() == [0, 0]
        assert numbers[8] == (0 if numbers[7] == 0 else -1)
        seen.add(int(numbers[7]))
    assert seen == {0, 1}


def test_a_fold_validates_and_the_others_train(words: list[str], tmp_path: Path) -> None:
    from hpa_ray.cli.main import main

    table = tmp_path / "folds.csv"
    assert main(["split", *words[:3], f"split.output={table}", "split.parts=4 folds"]) == 0
    assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    seen: list[str] = []
    for fold in range(4):
        data = open_data(load_config([*words, f"data.split={table}", f"data.fold={fold}"]))
        validating = data.ids(data.parts["val"])
        assert len(validating) == 10
        assert all(name.startswith("m") for name in validating)
        assert len(data.parts["train"]) == 30 + NUM_EXTRA
        seen += validating
    assert sorted(seen) == [f"m{k:02d}" for k in range(NUM_MAIN)]
    with pytest.raises(InputError, match="has no such fold"):
        open_data(load_config([*words, f"data.split={table}", "data.fold=4"]))
    with pytest.raises(InputError, match=r"say which fold validates by data\.fold"):
        open_data(load_config([*words, f"data.split={table}"]))


def test_a_fraction_keeps_the_shares(words: list[str]) -> None:
    whole = open_data(load_config([*words, "split.parts=0.8/0.2"]))
    half = open_data(load_config([*words, "split.parts=0.8/0.2", "data.sample_fraction=0.5"]))
    assert np.array_equal(whole.parts["val"], half.parts["val"])
    assert set(half.parts["train"]) < set(whole.parts["train"])
    counts = [data.targets_NK[data.parts["train"]].sum(axis=0)[:3] for data in (whole, half)]
    assert np.abs(counts[0] / 2 - counts[1]).max() <= 1


def test_secrets_are_written_nowhere() -> None:
    from hpa_ray.config import dump_config, without_credentials

    words = ["train", "storage.secret_key=hush-hush", "storage.session_token=a=b", "storage.region=x"]
    assert without_credentials(words) == [*["train", "storage.secret_key=...", "storage.session_token=..."], words[-1]]

    config = load_config(["storage.secret_key=hush-hush", "storage.session_token=pst", "storage.access_key=AKIA1"])
    assert config.storage.settings().secret_key == "hush-hush"
    for text in (dump_config(config), repr(config), repr(config.storage.settings()), str(config.storage)):
        assert not {"hush-hush", "pst", "AKIA1"} & set(text.replace("'", " ").split())
        assert "hush" not in text
