"""The figures show the numbers they were given."""

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.figures import (
    as_jpeg,
    class_distribution,
    class_shares,
    cooccurrence,
    correlation,
    figure_png,
    figure_svg,
    intensity_histograms,
    labels_per_image,
    merge_rgb,
    montage,
    thumbnail,
)
from hpa_ray.figures.classes import deviation_limit, relative_deviation, share
from hpa_ray.figures.colour import LEAST_WHITE, pseudo_colour, stretch
from hpa_ray.figures.matrices import (
    COMPARTMENTS,
    cooccurrence_counts,
    correlation_limit,
    phi_coefficients,
    present,
)
from hpa_ray.figures.pixels import histogram_mean, histogram_std
from hpa_ray.figures.style import STYLE
from hpa_ray.known import COMPETITION_TRAIN
from hpa_ray.labels import CLASS_NAMES, CLASS_TABLE, NUM_CLASSES

COUNTS = np.array([count for _, count in CLASS_TABLE])


@pytest.fixture(scope="module")
def targets() -> np.ndarray:
    rng = np.random.default_rng(5)
    return (rng.random((500, NUM_CLASSES)) < rng.uniform(0.02, 0.4, NUM_CLASSES)).astype(np.uint8)


def names(axis: "matplotlib.axis.Axis") -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def texts(figure: "matplotlib.figure.Figure") -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_bars_are_as_long_as_the_counts_and_sorted() -> None:
    axes = class_distribution({"train": COUNTS}, {"train": 31072}).axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(COUNTS.tolist(), reverse=True)
    assert axes.get_xscale() == "log"
    shown = names(axes.yaxis)
    assert shown[0] == "0 Nucleoplasm"
    assert shown[-1] == "27 Rods & rings"
    assert {f"{k} {CLASS_NAMES[k]}": COUNTS[k] for k in range(NUM_CLASSES)} == dict(zip(shown, widths, strict=True))
    low, high = axes.get_ylim()
    assert low > high, "the first is on top"


def test_sources_share_an_axis() -> None:
    other = COUNTS[::-1]
    axes = class_distribution({"a": COUNTS, "b": other}, {"a": 31072, "b": 40000}).axes[0]
    assert [sum(bar.get_width() for bar in bars) for bars in axes.containers] == [COUNTS.sum(), other.sum()]
    order = [int(name.split()[0]) for name in names(axes.yaxis)]
    assert [bar.get_width() for bar in axes.containers[1]] == other[order].tolist()


def test_a_class_without_images_is_named_and_has_no_bar() -> None:
    counts = np.where(np.arange(NUM_CLASSES) < 2, 5, 0)
    figure = class_distribution({"few": counts}, {"few": 10})
    assert texts(figure).count("none") == NUM_CLASSES - 2
    figure_png(figure, dpi=40)


def test_deviation_is_relative_to_the_whole() -> None:
    counts = {"train": np.full(NUM_CLASSES, 80), "val": np.full(NUM_CLASSES, 20)}
    counts["val"][3] = 30
    counts["train"][3] = 70
    found = relative_deviation(counts, {"train": 800, "val": 200})
    assert found["val"][0] == pytest.approx(0)
    assert found["val"][3] == pytest.approx(30 / 200 / (100 / 1000) - 1)
    assert found["train"][3] == pytest.approx(70 / 800 / (100 / 1000) - 1)


def test_class_shares_draws_each_part_and_what_lies_beyond_the_axis() -> None:
    counts = {"train": COUNTS * 8, "val": COUNTS.copy(), "test": COUNTS.copy()}
    counts["val"][27] *= 4
    figure = class_shares(counts, {"train": 248576, "val": 31072, "test": 31072})
    left, right = figure.axes
    assert len(left.patches) == 3 * NUM_CLASSES
    assert left.containers[1][0].get_width() == pytest.approx(COUNTS[0] / 31072)
    expected = relative_deviation(counts, {"train": 248576, "val": 31072, "test": 31072})["val"][27]
    assert f"{expected:+.0%}" in [text.get_text() for text in right.texts]
    assert right.get_xlim()[1] < expected


def test_axis_of_deviations_is_round_and_never_ends_below_the_bulk() -> None:
    assert deviation_limit(np.full(100, 0.03)) == 0.05
    assert deviation_limit(np.array([])) == 0.02
    assert deviation_limit(np.full(10, 30.0)) == 1.0


def test_labels_per_image_has_a_bar_for_every_number() -> None:
    axes = labels_per_image({1: 10, 2: 5, 4: 1}).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [10, 5, 0, 1]
    assert names(axes.xaxis) == ["1", "2", "3", "4"]


def test_shares_have_two_digits() -> None:
    assert [share(count, 31072) for count in (12885, 1254, 28, 11, 0, 31072)] == [
        "41%", "4.0%", "0.090%", "0.035%", "0%", "100%",
    ]  # fmt: skip


def test_phi_is_the_correlation_of_numpy(targets: np.ndarray) -> None:
    np.testing.assert_allclose(phi_coefficients(targets), np.corrcoef(targets, rowvar=False), atol=1e-12)
    without = targets.copy()
    without[:, 8] = 0
    phi = phi_coefficients(without)
    assert np.isnan(phi[8]).all()
    assert np.isfinite(np.delete(np.delete(phi, 8, 0), 8, 1)).all()


def test_the_correlation_that_is_drawn(targets: np.ndarray) -> None:
    figure = correlation(targets)
    image = figure.axes[0].images[0]
    order = [int(name.split()[0]) for name in names(figure.axes[0].xaxis)]
    assert order == [int(name.split()[0]) for name in names(figure.axes[0].yaxis)]
    assert sorted(order) == list(range(NUM_CLASSES))
    expected = np.corrcoef(targets, rowvar=False)[np.ix_(order, order)]
    drawn = np.ma.filled(image.get_array(), np.nan)
    off = ~np.eye(NUM_CLASSES, dtype=bool)
    np.testing.assert_allclose(drawn[off], expected[off], atol=1e-12)
    assert np.isnan(drawn[~off]).all(), "the diagonal says nothing"
    low, high = image.get_clim()
    assert low == -high, "0 is in the middle of the colours"
    assert high == correlation_limit(np.abs(expected[off]))


def test_one_pair_of_synonyms_does_not_pale_the_rest() -> None:
    assert correlation_limit(np.array([0.05] * 755 + [0.8])) == 0.1


def test_the_cooccurrence_that_is_drawn(targets: np.ndarray) -> None:
    counts = cooccurrence_counts(targets)
    i, j = 2, 9
    assert counts[i, j] == np.sum(targets[:, i] & targets[:, j])
    assert (np.diag(counts) == targets.sum(axis=0)).all()
    figure = cooccurrence(targets)
    order = [int(name.split()[0]) for name in names(figure.axes[0].yaxis)]
    drawn = figure.axes[0].images[1].get_array()
    assert drawn is not None
    row, column = order.index(i), order.index(j)
    assert drawn[row, column] == pytest.approx(targets[targets[:, i] == 1, j].mean())
    assert drawn.mask[row, row]
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells[(column, row)] == str(counts[i, j])
    assert cells[(row, row)] == str(counts[i, i])


def test_classes_without_images_are_left_out_of_the_matrices(targets: np.ndarray) -> None:
    few = np.where(np.isin(np.arange(NUM_CLASSES), (0, 7, 25)), targets, 0)
    assert present(few) == [0, 25, 7]
    for draw in (cooccurrence, correlation):
        figure = draw(few)
        assert [name.split()[0] for name in names(figure.axes[0].yaxis)] == ["0", "25", "7"]
        figure_png(figure, dpi=40)


def test_compartments_hold_every_class_once() -> None:
    assert sorted(k for _, classes in COMPARTMENTS for k in classes) == list(range(NUM_CLASSES))


def test_histograms_add_up_and_mark_the_means() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (5, 4, 32, 32), np.uint8)
    images[:, 1] //= 4
    counts = np.stack([np.bincount(images[:, c].ravel(), minlength=256) for c in range(4)])
    figure = intensity_histograms({"a": counts, "b": counts * 3})
    for c, axes in enumerate(figure.axes):
        steps = [patch.get_data().values for patch in axes.patches]
        assert [np.nansum(step) for step in steps] == pytest.approx([1, 1])
        marked = [line.get_xdata()[0] for line in axes.lines]  # type: ignore[index]
        mean = images[:, c].mean() / 255
        assert marked == pytest.approx([mean, mean, COMPETITION_TRAIN.mean[c]])
        assert axes.get_yscale() == "log"
    assert histogram_mean(counts[1]) == pytest.approx(images[:, 1].mean() / 255)
    assert histogram_std(counts[1]) == pytest.approx(images[:, 1].std() / 255)


def test_histograms_of_chosen_stains_have_their_own_reference() -> None:
    counts = np.ones((2, 256), int)
    figure = intensity_histograms({"a": counts}, channels=("yellow", "green"))
    assert [axes.lines[-1].get_xdata()[0] for axes in figure.axes] == [0.08282, 0.05258]  # type: ignore[index]


def test_montage_shows_each_stain_in_its_colour_and_the_merge() -> None:
    images = np.zeros((2, 4, 8, 8), np.uint8)
    for c in range(4):
        images[:, c, c, :] = 200
    figure = montage(images, ["id-a", "id-b"], [[0, 27], None])
    assert len(figure.axes) == 2 * 5
    tiles = [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:5]]
    for c, stain in enumerate(STAINS):
        np.testing.assert_array_equal(tiles[c], pseudo_colour(stretch(images[0])[c], stain))
    red, green, blue, yellow = (tiles[4][c, 0].tolist() for c in range(4))
    assert (red, green, blue) == ([255, 0, 0], [0, 255, 0], [0, 0, 255])
    assert yellow[0] == yellow[1] > 0 == yellow[2]
    heads = [text.get_text().replace("\u00a0", " ") for text in figure.texts]
    assert "id-a 0 Nucleoplasm, 27 Rods & rings" in [" ".join(head.split()) for head in heads]
    assert any("id-b" in head and "no labels known" in head for head in heads)
    assert {"red", "microtubules", "merge"} <= set(heads)


def test_montage_of_one_stain_has_no_merge() -> None:
    figure = montage(np.zeros((3, 1, 8, 8), np.uint8), ["a", "b", "c"], [[0]] * 3, channels=("green",))
    assert len(figure.axes) == 3


def test_contrast_is_stretched_but_noise_is_not() -> None:
    image = np.zeros((2, 100, 100), np.uint8)
    image[0, :10] = 100
    image[1] = np.random.default_rng(0).integers(0, 4, (100, 100))
    bright = stretch(image)
    assert bright[0].max() == 1
    assert bright[1].max() <= 3 / LEAST_WHITE


def test_thumbnails_are_small_jpegs() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 300, 300), np.uint8)
    picture = Image.open(io.BytesIO(thumbnail(image, side=64)))
    assert (picture.format, picture.size) == ("JPEG", (64, 64))
    assert merge_rgb(image).shape == (300, 300, 3)


def test_files_are_what_they_say_and_the_same_each_time() -> None:
    def draw() -> tuple[bytes, bytes]:
        figure = labels_per_image({1: 2, 2: 1})
        return figure_svg(figure), figure_png(figure, dpi=50)

    svg, png = draw()
    assert (svg, png) == draw()
    assert svg.startswith(b"<?xml")
    assert Image.open(io.BytesIO(png)).format == "PNG"
    assert Image.open(io.BytesIO(as_jpeg(png))).format == "JPEG"


def test_drawing_leaves_no_trace() -> None:
    before = {key: matplotlib.rcParams[key] for key in STYLE}
    assert any(before[key] != STYLE[key] for key in STYLE), "else this test would see nothing"
    figure_svg(labels_per_image({1: 2, 2: 1}))
    assert {key: matplotlib.rcParams[key] for key in STYLE} == before


def test_pyplot_is_not_needed() -> None:
    code = "import sys, hpa_ray.figures as f; f.figure_png(f.labels_per_image({1: 2})); "
    code += "print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_names_of_the_user_are_no_formulas_and_need_no_font() -> None:
    counts = np.ones((4, 256), int)
    figure = intensity_histograms({"$\\frac$": counts, "\u7d30\u80de": counts})
    figure_png(figure, dpi=40)


def test_no_tick_is_labelled_in_the_language_of_formulas() -> None:
    """Where a log axis spans a decade or less, matplotlib labels minor ticks by itself."""
    counts = {"train": np.full(28, 12), "val": np.full(28, 5)}
    for figure in (
        class_shares(counts, {"train": 100, "val": 50}),
        class_distribution(counts, {"train": 100, "val": 50}),
    ):
        figure_png(figure, dpi=30)
        labels = [
            tick.get_text()
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for tick in (*axis.get_majorticklabels(), *axis.get_minorticklabels())
        ]
        assert any("%" in label or label.isdigit() for label in labels)
        assert not [label for label in labels if "$" in label or "\\" in label]
