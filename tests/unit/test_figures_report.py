"""Figures of a report show the numbers they were given."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve

from hpa_ray import figures
from hpa_ray.figures.matrices import phi_coefficients
from hpa_ray.figures.runs import RunCurve, ScoreDifference
from hpa_ray.figures.scores import POINTS, PrCurve, Spread
from hpa_ray.metrics.curves import precision_recall


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]


@pytest.mark.parametrize("num_images", [12, 4000])
def test_the_drawn_steps_enclose_the_average_precision(num_images: int) -> None:
    rng = np.random.default_rng(3)
    target = np.arange(num_images) < num_images // 4
    probability = 1 / (1 + np.exp(-(1.5 * target - 1 + rng.normal(size=num_images))))
    precision, recall, _ = precision_recall(probability, target)
    oracle = precision_recall_curve(target, probability)
    assert set(zip(*oracle[:2], strict=True)) >= set(zip(precision, recall, strict=True))
    ap = float(average_precision_score(target, probability))
    curve = PrCurve("a", precision, recall, 0.25, ap, at=(0.5, 0.75))
    axes = figures.pr_curves([curve, curve]).axes[1]
    (drawn,) = [line for line in axes.lines if line.get_drawstyle() == "steps-pre"]
    x, y = drawn.get_xdata(), drawn.get_ydata()
    assert len(x) <= POINTS + 1
    assert (x[0], x[-1]) == (0, 1)
    area = float((np.diff(x) * y[1:]).sum())  # of each recall the best precision: a little above the mean of all cuts
    assert ap - 0.01 <= area <= ap + 0.04
    assert texts(figures.pr_curves([curve]))[0] == f"AP {ap:.2f}"
    (dot,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (0.5, 0.75)


def test_reliability_shows_each_bin_that_has_pairs() -> None:
    edges = np.linspace(0, 1, 5)
    confidence, observed = np.array([0.1, 0.3, np.nan, 0.9]), np.array([0.0, 0.5, np.nan, 0.8])
    figure = figures.reliability(edges, confidence, observed, np.array([100, 5, 0, 30]), ece=0.123)
    left, right = figure.axes
    curve = next(line for line in left.lines if len(line.get_xdata()) == 3)
    assert curve.get_ydata().tolist() == [0.0, 0.5, 0.8]
    assert [bar.get_height() for bar in right.patches] == [100, 5, 0, 30]
    assert "ECE 0.123" in texts(figure)


def test_thresholds_have_a_dot_per_class_and_a_bar_where_there_are_images() -> None:
    classes = [Spread(0, 0.4, (0.2, 0.5, 0.9)), Spread(27, 0.0, None)]
    axes = figures.threshold_dots(classes).axes[0]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert dots == pytest.approx([0.4, 0.001])  # the axis has no 0
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0 Nucleoplasm", "27 Rods & rings"]
    bars = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 6]
    assert np.allclose(bars, [[0.2, 0.9]])


def test_two_heat_maps_share_an_order_and_a_scale() -> None:
    rng = np.random.default_rng(0)
    one, other = (phi_coefficients(rng.random((50, 28)) < 0.2) for _ in range(2))
    figure = figures.correlation_pair(one, other, [0, 5, 23], limit=0.3)
    images = [axes.images[0] for axes in figure.axes[:2]]
    for image, values in zip(images, (one, other), strict=True):
        assert image.get_clim() == (-0.3, 0.3)
        assert image.get_array()[0, 2] == pytest.approx(values[0, 23])
        assert np.isnan(np.ma.filled(image.get_array(), np.nan)[1, 1])


def test_runs_have_a_line_each_and_a_legend_that_names_them() -> None:
    names = ["a", "b"]
    panels = [("Loss", [RunCurve(name, [1, 2], [0.5, 0.4]) for name in names]), ("mAP", [RunCurve("b", [1], [0.2])])]
    figure = figures.run_curves(panels, names)
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert figure.axes[0].lines[1].get_color() == figure.axes[1].lines[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def test_a_difference_is_hollow_where_it_may_be_none() -> None:
    rows = [ScoreDifference("macro F1", 1, 0.1, 0.05, 0.2), ScoreDifference("micro F1", 1, 0.1, -0.05, 0.2)]
    axes = figures.score_differences(rows, ["a", "b"], first="a").axes[0]
    dots = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert [colour == "white" for colour in dots] == [False, True]


def test_speed_by_epoch() -> None:
    left, right = figures.feed([1, 2], [50.0, 60.0], [0.5, 12.0]).axes
    assert [bar.get_height() for bar in left.patches] == [50, 60]
    assert [bar.get_height() for bar in right.patches] == [0.5, 12]
