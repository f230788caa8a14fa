"""The figure of augmented samples shows the pixels it was given, in one contrast per row."""

import numpy as np

from hpa_ray.channels import STAINS
from hpa_ray.figures import augmented, figure_png, merge_rgb
from hpa_ray.figures.augmented import merge_alike


def make_images(num_images: int, num_tiles: int = 6, num_stains: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 200, (num_images, num_tiles, num_stains, 16, 16)).astype(np.uint8)


def test_a_row_is_the_original_and_its_draws_with_id_and_classes_below() -> None:
    images = make_images(2)
    figure = augmented(images, [[0, 27], []], ["id-a", "id-b"])
    assert len(figure.axes) == 2 * 6
    for row in range(2):
        expected = merge_alike(images[row], STAINS)
        for axes, picture in zip(figure.axes[6 * row : 6 * row + 6], expected, strict=True):
            np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), picture)
    texts = [" ".join(text.get_text().replace("\u00a0", " ").split()) for text in figure.texts]
    assert texts[:2] == ["original", "augmented, draw 1"]
    assert texts[-2:] == ["id-a 0 Nucleoplasm, 27 Rods & rings", "id-b no class"]
    tops = [axes.get_position().y1 for axes in figure.axes]
    bottoms = [axes.get_position().y0 for axes in figure.axes]
    assert bottoms[0] > tops[6]
    assert min(bottoms) > 0
    assert figure_png(figure, dpi=50).startswith(b"\x89PNG")


def test_the_original_looks_as_in_other_figures_and_brightness_of_draws_shows() -> None:
    image = make_images(1, 1)[0, 0]
    original, darker = merge_alike(np.stack([image, image // 2]), STAINS)
    np.testing.assert_array_equal(original, merge_rgb(image))
    assert darker.mean() < 0.6 * original.mean()


def test_other_stains_and_numbers_of_draws() -> None:
    images = make_images(3, num_tiles=2, num_stains=1)
    figure = augmented(images.astype(np.float32), [[1]] * 3, ["a", "b", "c"], channels=("green",))
    assert len(figure.axes) == 6
    tile = np.asarray(figure.axes[0].images[0].get_array())
    assert tile[..., 1].any()
    assert not tile[..., [0, 2]].any()
    many = augmented(images, [list(range(28))] * 3, ["x" * 60] * 3, channels=("green",))
    assert figure_png(many, dpi=50)


def test_the_same_draws_give_the_same_file() -> None:
    pngs = {figure_png(augmented(make_images(1), [[3]], ["a"]), dpi=50) for _ in range(2)}
    assert len(pngs) == 1
