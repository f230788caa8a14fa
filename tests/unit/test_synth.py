"""The synthetic atlas: a pure function of its arguments, every class visible and different, restartable."""

import csv
import errno
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES, parse_labels
from hpa_ray.synth import draw_label_sets, render_field, sample_label_sets, write_atlas
from hpa_ray.synth.cells import build_cells
from hpa_ray.synth.layout import lay_out
from hpa_ray.synth.patterns import PATTERNS
from hpa_ray.synth.stains import TRACES

GREEN = STAINS.index("green")
BRINGS_OWN_CELLS = {16, 17, 22}
# the competition's label table lies in shared/ in the repository or beside it, where there is one
PLACES = [folder / "shared" / "hpa" / "train.csv" for folder in Path(__file__).resolve().parents[2:4]]
REAL_TABLE = next((path for path in PLACES if path.exists()), None)


def green(labels: list[int], *, seed: int = 0, image_size: int = 128) -> NDArray[np.float32]:
    return np.asarray(render_field(labels, seed=[seed], image_size=image_size)[GREEN], dtype=np.float32)


@pytest.fixture
def clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """No protein is faint."""
    monkeypatch.setattr("hpa_ray.synth.render.FAINT_SHARE", 0.0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_class_has_a_pattern() -> None:
    assert sorted(PATTERNS) == list(range(NUM_CLASSES))
    assert len(set(PATTERNS.values())) == NUM_CLASSES


@pytest.mark.parametrize("image_size", [64, 100, 128, 300])
def test_a_field_is_a_pure_function_of_its_arguments(image_size: int) -> None:
    field = render_field([0, 7], seed=[1, 2], image_size=image_size)
    assert field.shape == (4, image_size, image_size)
    assert field.dtype == np.uint8
    assert np.array_equal(field, render_field([7, 0, 7], seed=[1, 2], image_size=image_size))
    assert not np.array_equal(field, render_field([0, 7], seed=[1, 3], image_size=image_size))


@pytest.mark.parametrize("label", sorted(set(range(NUM_CLASSES)) - BRINGS_OWN_CELLS))
@pytest.mark.usefixtures("clear")
def test_a_label_changes_green_and_the_stain_of_its_trace(label: int) -> None:
    plain, labelled = (render_field(labels, seed=[4], image_size=128).astype(int) for labels in ([], [label]))
    changed = {stain: np.abs(labelled[k] - plain[k]).max() for k, stain in enumerate(STAINS)}
    traced = {TRACES[label].stain} if label in TRACES else set()
    assert {stain for stain, levels in changed.items() if levels} == {"green"} | traced
    assert all(changed[stain] > 30 for stain in {"green"} | traced)


def test_where_green_is_faint_the_trace_still_shows() -> None:
    brightest = []
    for seed in range(3):
        plain = render_field([], seed=[seed], image_size=128).astype(int)
        for label in sorted(set(TRACES) - BRINGS_OWN_CELLS):
            change = np.abs(render_field([label], seed=[seed], image_size=128) - plain)
            brightest.append(np.sort(change[GREEN].ravel())[-20])
            assert np.sort(change[STAINS.index(TRACES[label].stain)].ravel())[-20] > 15, (label, seed)
    assert 0.3 < np.mean(np.array(brightest) < 50) < 0.7


@pytest.mark.parametrize("image_size", [64, 128])
@pytest.mark.usefixtures("clear")
def test_every_label_of_a_small_field_is_visible(image_size: int) -> None:
    for seed in range(3):
        for label in range(NUM_CLASSES):
            light = green([label], seed=seed, image_size=image_size)
            inner = light[image_size // 16 : -image_size // 16, image_size // 16 : -image_size // 16]
            assert np.sort(inner.ravel())[-5] > np.quantile(inner, 0.25) + 15, (seed, label)


@pytest.mark.usefixtures("clear")
def test_patterns_differ_from_each_other() -> None:
    fields = {label: green([label], seed=9) for label in sorted(set(range(NUM_CLASSES)) - BRINGS_OWN_CELLS)}
    shapes = {label: (f - f.mean()) / f.std() for label, f in fields.items()}  # same cells in all of them
    for a, b in combinations(shapes, 2):
        assert float((shapes[a] * shapes[b]).mean()) < 0.9, (a, b)


@pytest.mark.usefixtures("clear")
def test_patterns_follow_their_reference_stains() -> None:
    def likeness(label: int, stain: str) -> float:
        field = render_field([label], seed=[3], image_size=256)
        return float(np.corrcoef(field[GREEN].ravel(), field[STAINS.index(stain)].ravel())[0, 1])

    assert likeness(14, "red") > 0.9
    assert likeness(6, "yellow") > 0.9
    assert likeness(0, "blue") > 0.8
    assert likeness(25, "blue") < 0.3
    assert likeness(8, "blue") < 0.1


@pytest.mark.parametrize("image_size", [128, 200, 256, 512])
def test_labels_of_dividing_and_touching_cells_bring_them(image_size: int) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        cells = build_cells(lay_out([0, 16, 17, 22], rng, image_size), rng, image_size)
        bridges = {cell.plan.bridge for cell in cells if cell.plan.phase == "daughter"}
        assert any(bridge is not None and 10 < min(bridge) < max(bridge) < image_size - 10 for bridge in bridges)
        assert any(cell.plan.phase == "metaphase" and cell.visible_share() > 0.6 for cell in cells)
        assert any(cell.plan.phase == "interphase" and (cell.contact * cell.body).sum() > 80 for cell in cells)


def test_neighbours_do_not_overlap() -> None:
    rng = np.random.default_rng(2)
    cover = np.zeros((512, 512), np.float32)
    for cell in build_cells(lay_out([22], rng, 512), rng, 512):
        cover[cell.top : cell.top + cell.shape[0], cell.left : cell.left + cell.shape[1]] += cell.body > 0.5
    assert (cover > 1).sum() < 0.005 * (cover > 0).sum()
    assert 0.3 < (cover > 0).mean() < 0.8


def test_a_smaller_field_shows_fewer_cells_not_smaller_ones() -> None:
    cover = {size: np.mean([(render_field([0], seed=[s], image_size=size)[2] > 40).sum() for s in range(4)])
             for size in (128, 512)}  # fmt: skip
    assert 4 < cover[512] / cover[128] < 16


def test_drawn_label_sets_are_long_tailed_and_cover_all_classes() -> None:
    sets = draw_label_sets(1500, seed=1)
    shares = np.bincount([k for labels in sets for k in labels], minlength=NUM_CLASSES) / len(sets)
    assert sets == draw_label_sets(1500, seed=1) != draw_label_sets(1500, seed=2)
    assert all(labels == sorted(set(labels)) for labels in sets)
    assert 1.5 < np.mean([len(labels) for labels in sets]) < 1.7
    assert shares.min() > 0.015
    assert 0.13 < shares.max() < 0.2
    assert {k for labels in draw_label_sets(28, seed=5) for k in labels} == set(range(NUM_CLASSES))
    assert draw_label_sets(0, seed=1) == []


def test_sampled_label_sets_keep_order_or_every_class() -> None:
    source = [[0]] * 50 + [[0, 25]] * 30 + [[27], [8, 9], [10]]
    assert sample_label_sets(source, len(source), seed=0) == source
    for num_images in (4, 20, 500):
        drawn = sample_label_sets(source, num_images, seed=3)
        assert len(drawn) == num_images
        assert drawn == sample_label_sets(source, num_images, seed=3)
        assert {k for labels in drawn for k in labels} >= {27, 8, 9, 10, 0}
    with pytest.raises(InputError, match="no label set"):
        sample_label_sets([], 3, seed=0)


def test_an_atlas_has_the_competitions_form(tmp_path: Path) -> None:
    progress: list[int] = []
    sets = [[0], [25, 0], [16]]
    write_atlas(tmp_path, sets, image_size=64, seed=5, num_workers=0, on_progress=progress.append)
    with (tmp_path / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert b"\r" not in (tmp_path / "train.csv").read_bytes()
    assert [row["Id"] for row in rows] == sorted(row["Id"] for row in rows)
    assert sorted(parse_labels(row["Target"]) for row in rows) == sorted([[0], [0, 25], [16]])
    names = {f"{row['Id']}_{stain}.png" for row in rows for stain in STAINS}
    assert {path.name for path in (tmp_path / "train").iterdir()} == names
    for name in names:
        with Image.open(tmp_path / "train" / name) as image:
            assert image.mode == "L"
            assert image.size == (64, 64)
    assert progress[-1] == 3


def test_given_ids_are_used(tmp_path: Path) -> None:
    write_atlas(tmp_path, [[1], [2]], image_size=64, seed=0, image_ids=["b", "a"], num_workers=1)
    assert (tmp_path / "train.csv").read_text() == "Id,Target\na,2\nb,1\n"
    with pytest.raises(InputError, match="image ids"):
        write_atlas(tmp_path / "new", [[1], [2]], image_size=64, seed=0, image_ids=["b", "b"], num_workers=1)


def test_a_stopped_atlas_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    sets = draw_label_sets(10, seed=0)
    write_atlas(tmp_path / "straight", sets, image_size=64, seed=7, num_workers=1)

    def stop(num_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atlas(tmp_path / "stopped", sets, image_size=64, seed=7, num_workers=1, on_progress=stop)
    images = tmp_path / "stopped" / "train"
    assert not (tmp_path / "stopped" / "train.csv").exists()
    assert 0 < len(list(images.iterdir())) < 40
    finished, half = (sorted(images.glob("*_red.png"))[k] for k in (0, 1))
    half.unlink()
    before = finished.stat().st_mtime_ns
    with pytest.raises(InputError, match="another size, seed or label sets"):
        write_atlas(tmp_path / "stopped", sets, image_size=100, seed=7, num_workers=1)
    write_atlas(tmp_path / "stopped", sets, image_size=64, seed=7, num_workers=1)
    assert finished.stat().st_mtime_ns == before
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "straight")


def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    sets = draw_label_sets(18, seed=0)
    for num_workers in (1, 2):
        write_atlas(tmp_path / str(num_workers), sets, image_size=64, seed=2, num_workers=num_workers)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_an_existing_atlas_is_left_alone(tmp_path: Path) -> None:
    write_atlas(tmp_path, [[0]], image_size=64, seed=0, num_workers=1)
    before = files_of(tmp_path)
    with pytest.raises(InputError, match="already holds an atlas"):
        write_atlas(tmp_path, [[0]], image_size=64, seed=1, num_workers=1)
    assert files_of(tmp_path) == before


def test_a_write_error_surfaces_and_leaves_no_csv(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        write_atlas(tmp_path, [[0]], image_size=64, seed=0, num_workers=1)
    assert not (tmp_path / "train.csv").exists()


def test_a_full_disk_surfaces_and_the_next_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes, calls = Path.write_bytes, iter(range(100))

    def until_full(path: Path, content: bytes) -> int:
        if next(calls) == 6:  # synth.json, the first image, a plane of the second
            write_bytes(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", until_full)
        with pytest.raises(OSError, match="No space left"):
            write_atlas(tmp_path / "full", [[0], [1]], image_size=64, seed=0, num_workers=1)
    assert len(list((tmp_path / "full" / "train").iterdir())) == 5
    for folder in ("full", "roomy"):
        write_atlas(tmp_path / folder, [[0], [1]], image_size=64, seed=0, num_workers=1)
    assert files_of(tmp_path / "full") == files_of(tmp_path / "roomy")


@pytest.mark.skipif(REAL_TABLE is None, reason="the competition's label table, shared/hpa/train.csv, is not here")
def test_brightness_is_that_of_the_real_images() -> None:
    assert REAL_TABLE is not None
    with REAL_TABLE.open(newline="") as file:
        table = [parse_labels(row["Target"]) for row in csv.DictReader(file)]
    sets = [table[row] for row in np.random.default_rng(0).choice(len(table), 24)]
    fields = np.stack([render_field(labels, seed=[7, row], image_size=512) for row, labels in enumerate(sets)]) / 255
    mean, spread = fields.mean((0, 2, 3)), fields.std((0, 2, 3))
    np.testing.assert_allclose(mean, (0.081, 0.053, 0.055, 0.083), rtol=0.25)
    np.testing.assert_allclose(spread, (0.137, 0.101, 0.153, 0.138), rtol=0.25)
