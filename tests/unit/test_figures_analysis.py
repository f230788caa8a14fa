"""The figures of an analysis show what they were given."""

import io

import numpy as np
import pytest
from PIL import Image

from hpa_ray.analysis.confusions import confusions
from hpa_ray.figures import confusion_heatmap, embedding_map, figure_png, overlay
from hpa_ray.figures.embedding import MARKERS, NO_CLASS, rarest_class
from hpa_ray.figures.matrices import BOLD_IMAGES
from hpa_ray.figures.style import PALETTE
from hpa_ray.labels import CLASS_TABLE, NUM_CLASSES


def targets(num: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    share_K = np.array([count for _, count in CLASS_TABLE]) / 31072
    return (rng.random((num, NUM_CLASSES)) < np.maximum(share_K, 0.02)).astype(np.uint8)


def test_points_have_the_colour_of_their_rarest_class() -> None:
    truth = np.zeros((6, NUM_CLASSES), np.uint8)
    truth[:5, 0] = truth[3:5, 25] = truth[4, 27] = 1
    assert rarest_class(truth).tolist() == [0, 0, 0, 25, 27, NO_CLASS]
    points = np.arange(12.0).reshape(6, 2)
    figure = embedding_map(points, truth, method="pca", explained=(0.5, 0.25))
    axes = figure.axes[0]
    drawn = [np.asarray(some.get_offsets()).tolist() for some in axes.collections]
    assert drawn == [points[:3].tolist(), points[3:4].tolist(), points[4:5].tolist(), points[5:].tolist()]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["0 Nucleoplasm  (3)", "25 Cytosol  (1)", "27 Rods & rings  (1)", "no class  (1)"]
    assert axes.get_xlabel() == "first principal component (50% of the variance)"
    assert embedding_map(points, truth, method="umap").axes[0].get_ylabel() == "UMAP 2"


def test_all_classes_can_be_told_apart() -> None:
    assert len(PALETTE) * len(MARKERS) >= NUM_CLASSES
    truth = np.eye(NUM_CLASSES, dtype=np.uint8)
    figure = embedding_map(np.random.default_rng(0).normal(size=(NUM_CLASSES, 2)), truth)
    marks = {
        (tuple(some.get_facecolor()[0]), some.get_paths()[0].vertices.tobytes()) for some in figure.axes[0].collections
    }
    assert len(marks) == NUM_CLASSES
    picture = Image.open(io.BytesIO(figure_png(figure, dpi=50)))
    assert picture.width > picture.height


def test_a_map_of_nothing_is_a_figure() -> None:
    figure_png(embedding_map(np.zeros((0, 2)), np.zeros((0, NUM_CLASSES), np.uint8)), dpi=30)


def test_the_confusions_that_are_drawn() -> None:
    truth, said = targets(800), targets(800, seed=1)
    found = confusions(truth, said)
    figure = confusion_heatmap(found.counts_KK, found.missed_K, found.lift_KK)
    axes = figure.axes[0]
    order = [int(label.get_text().split()[0]) for label in axes.get_yticklabels()]
    assert sorted(order) == list(range(NUM_CLASSES))
    drawn = axes.images[1].get_array()
    assert drawn is not None
    row, column = order.index(25), order.index(0)
    assert drawn[row, column] == pytest.approx(found.counts_KK[25, 0] / found.missed_K[25])
    cells = {text.get_position(): text for text in axes.texts}
    assert cells[(column, row)].get_text() == str(found.counts_KK[25, 0])
    assert (cells[(column, row)].get_fontweight() == "bold") == bool(found.lift_KK[25, 0] > 1)
    assert found.counts_KK[25, 0] >= BOLD_IMAGES
    alone = [(order.index(j), order.index(i)) for i, j in np.argwhere(found.counts_KK == 1)]
    assert alone
    assert all(cells[place].get_fontweight() == "normal" for place in alone)
    assert f"25 Cytosol  ({found.missed_K[25]})" in [label.get_text() for label in axes.get_yticklabels()]
    figure_png(figure, dpi=40)


def test_classes_without_a_mistake_are_left_out() -> None:
    truth = np.zeros((4, NUM_CLASSES), np.uint8)
    said = truth.copy()
    truth[:, 3] = said[0, 7] = 1
    found = confusions(truth, said)
    axes = confusion_heatmap(found.counts_KK, found.missed_K, found.lift_KK).axes[0]
    assert [label.get_text().split()[0] for label in axes.get_xticklabels()] == ["3", "7"]
    right = confusions(truth, truth)
    figure = confusion_heatmap(right.counts_KK, right.missed_K, right.lift_KK)
    assert "no class was missed" in figure.axes[0].texts[0].get_text()
    figure_png(figure, dpi=30)


def test_heat_colours_what_is_hot_and_leaves_what_is_cold() -> None:
    plane = np.full((40, 40), 0.5)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    picture = overlay(plane, heat)
    assert (picture.shape, picture.dtype) == ((40, 40, 3), np.uint8)
    assert (picture[30:, 30:] == 128).all()
    red, green, blue = picture[4, 4].astype(int)
    assert red > green > blue
    assert (overlay(plane, np.zeros((4, 4))) == 128).all()
