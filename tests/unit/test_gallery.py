"""Strips show the stains and the heat side by side, and are small."""

import io

import numpy as np
import pytest
from PIL import Image

from hpa_ray.analysis.gallery import GAP_PX, STRIP_PX, strip
from hpa_ray.channels import STAINS
from hpa_ray.ingest import ImageSource
from hpa_ray.manifest import build_manifest, list_folder
from hpa_ray.synth import draw_label_sets, write_atlas

COLOURS = {"red": (255, 26, 26), "green": (0, 255, 0), "blue": (77, 115, 255), "yellow": (255, 255, 0)}


def tiles(jpeg: bytes) -> list[np.ndarray]:
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.format == "JPEG"
    assert picture.height == STRIP_PX
    wide = np.asarray(picture).astype(int)
    step = STRIP_PX + GAP_PX
    assert (wide.shape[1] + GAP_PX) % step == 0
    return [wide[:, left : left + STRIP_PX] for left in range(0, wide.shape[1], step)]


@pytest.mark.parametrize("side", [64, 112, 300])
def test_a_strip_has_the_merge_every_stain_and_the_heat(side: int) -> None:
    image = np.zeros((4, side, side), np.uint8)
    for stain in range(4):  # each in its own quarter
        top, left = side // 2 * (stain // 2), side // 2 * (stain % 2)
        image[stain, top : top + side // 2, left : left + side // 2] = 200
    heat = np.zeros((2, 2), np.float32)
    heat[0, 1] = 1
    merged, *stains, hot = tiles(strip(image, STAINS, heat))
    middles = [(28, 28), (28, 84), (84, 28), (84, 84)]
    for tile, stain, (row, column) in zip(stains, STAINS, middles, strict=True):
        np.testing.assert_allclose(tile[row, column], COLOURS[stain], atol=12)
        other = (112 - row, 112 - column)
        np.testing.assert_allclose(tile[other], 0, atol=12)
    np.testing.assert_allclose(merged[28, 28], (255, 0, 0), atol=12)
    red, green, blue = hot[20, 90]
    assert red > green > blue, "the protein's quarter is hot"
    np.testing.assert_allclose(hot[84, 28], 0, atol=40)


def test_one_stain_needs_no_merge_and_no_heat_no_tile() -> None:
    image = np.full((1, 64, 64), 90, np.uint8)
    assert len(tiles(strip(image, ("yellow",), None))) == 1
    assert len(tiles(strip(image, ("yellow",), np.ones((3, 3))))) == 2
    assert len(tiles(strip(np.zeros((3, 64, 64), np.uint8), ("red", "green", "blue"), None))) == 4


def test_a_page_of_all_classes_stays_below_five_mb(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("strips")
    label_sets = draw_label_sets(6, seed=1)
    write_atlas(folder, label_sets, image_size=256, seed=1, num_workers=1)
    table, _, _ = build_manifest(list_folder(f"{folder}/train"), None, STAINS)
    images = ImageSource((f"{folder}/train",), table, STAINS, 256, 255).read(np.arange(6))
    heat = np.random.default_rng(0).random((8, 8))
    sizes = [len(strip(image, STAINS, heat)) for image in images.pixels_BCSS]
    assert 28 * 6 * np.mean(sizes) * 4 / 3 < 5_000_000
