"""Figures of a study: every mark stands at its value, in the colour of its verdict."""

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from hpa_ray.figures import class_effects, effect_dots, final_differences, parallel_trials, study_curves
from hpa_ray.figures.study import BAD, GOOD, ClassInterval, Interval, ParallelAxis, TrialCurve, TrialPath


def colours(drawing: Drawing, axes: int = 0, *, marker: str = "o") -> dict[float, str]:
    """By value: the colour of its dot."""
    dots = [line for line in drawing.axes[axes].lines if line.get_marker() == marker]
    return {float(np.ravel(line.get_xdata())[0]): str(line.get_color()) for line in dots}


@pytest.mark.parametrize("larger", [True, False])
def test_effects_stand_at_their_values_in_the_colour_of_the_verdict(larger: bool) -> None:
    rows = [
        Interval("a", "up", 0.3, 0.1, 0.5),
        Interval("a", "down", -0.3, -0.5, -0.1),
        Interval("b", "noise", 0.2, -0.1, 0.5),
        Interval("b", "once", 0.4, None, None),
        Interval("b", "never", None, None, None),
    ]
    drawing = effect_dots(rows, score="map", larger=larger)
    found = colours(drawing)
    assert (found[0.3], found[-0.3]) == ((GOOD, BAD) if larger else (BAD, GOOD))
    assert len({found[0.2], found[0.4], GOOD, BAD}) == 3
    assert [label.get_text() for label in drawing.axes[0].get_yticklabels()] == ["up", "down", "noise", "once", "never"]


def test_finals_mark_rare_classes_and_those_without_images() -> None:
    rows = [
        ClassInterval(None, "all", 0.2, 0.1, 0.3),
        ClassInterval(0, "Nucleoplasm", -0.2, -0.3, -0.1),
        ClassInterval(27, "Rods & rings", None, None, None, True),
    ]
    drawing = final_differences([("trial 1", rows), ("trial 2", rows)], score="F1")
    assert len(drawing.axes) == 2
    assert colours(drawing, 1)[-0.2] == BAD
    assert colours(drawing, marker="D")[0.2] == GOOD
    assert [text.get_text() for text in drawing.axes[0].texts] == ["no image"]
    assert len(drawing.axes[0].patches) == 1


def test_the_heat_map_writes_what_is_no_noise() -> None:
    values = np.array([[0.1, -0.1, np.nan]])
    drawing = class_effects(
        values, np.array([[True, False, True]]), [8], [("a", "x"), ("a", "y"), ("b", "z")], score="AP"
    )
    assert [text.get_text() for text in drawing.axes[0].texts] == ["+.10", "a", "b"]


def test_lines_of_trials_end_where_their_values_are() -> None:
    axes = [ParallelAxis("a", ((0.0, "x"), (1.0, "y"))), ParallelAxis("b", ((0.0, "u"), (1.0, "v")))]
    drawing = parallel_trials(axes, [TrialPath((1.0, None), 0.5), TrialPath((0.0, 1.0), 0.7, "trial 9")], score="map")
    texts = [text.get_text() for text in drawing.axes[0].texts]
    assert {"x", "y", "u", "v", "not set", "trial 9"} == set(texts)
    assert texts.count("not set") == 1
    ends = sorted(
        (round(float(y[0])), float(y[-1]))
        for line in drawing.axes[0].lines
        if len(y := np.asarray(line.get_ydata())) > 2
    )
    assert ends[0][1] == pytest.approx(1.0, abs=0.03)
    assert ends[-1][1] < -0.1


def test_curves_mark_stops_and_set_finals_apart() -> None:
    curves = [
        TrialCurve([1, 2, 3], [0.1, 0.2, 0.3], "done", 0),
        TrialCurve([1, 2], [0.1, 0.15], "stopped", 1),
        TrialCurve([1, 2, 3], [0.2, 0.3, 0.4], "done", 0, True),
    ]
    drawing = study_curves(curves, score="map", winner=1)
    left, right = drawing.axes
    stops = [line for line in left.lines if line.get_marker() == "x"]
    assert [(float(s.get_xdata()[0]), float(s.get_ydata()[0])) for s in stops] == [(2.0, 0.15)]  # type: ignore[index, arg-type]
    assert len(right.lines) == 1
    assert len(study_curves(curves[:2], score="map", winner=None).axes) == 1
