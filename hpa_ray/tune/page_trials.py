"""Trials and their space -> sections of study.html, with their figures. Before: answer, page_parts. After: page."""

import math
from typing import TYPE_CHECKING

from hpa_ray.explore.folder import FigureFolder
from hpa_ray.page import Block, Column, Table
from hpa_ray.page.sections import Cell
from hpa_ray.tune.answer import Answer, grace_values
from hpa_ray.tune.effects import THIRDS, cuts
from hpa_ray.tune.generations import STAGES
from hpa_ray.tune.page_parts import chart, epochs_word, value_word
from hpa_ray.tune.space import Dimension
from hpa_ray.tune.study import Trial, searched

if TYPE_CHECKING:
    from hpa_ray.figures.study import ParallelAxis, TrialCurve, TrialPath

NAMED = 3
"""Best lines of the parallel axes that carry their number."""
TEST_SCORE = "macro_f1_rare_tuned"


def trials_blocks(answer: Answer, folder: FigureFolder) -> list[Block]:
    from hpa_ray import figures  # late: it imports matplotlib

    blocks: list[Block] = []
    curves = _curves(answer)
    if curves:
        finals = " At the right the finals, a line per seed." if any(curve.is_final for curve in curves) else ""
        blocks.append(
            chart(
                folder,
                "curves",
                figures.study_curves(curves, score=answer.metric, winner=answer.winner),
                f"{answer.metric} on the validation part, epoch by epoch. A cross is where a trial was stopped, as "
                f"others were better.{finals}",
                alt=f"Learning curves of {len(curves)} trials.",
            )
        )
    paths = _paths(answer)
    if len(paths) > 1 and len(answer.space) > 1:
        blocks.append(
            chart(
                folder,
                "parallel",
                figures.parallel_trials(
                    [_axis(dimension) for dimension in answer.space],
                    paths,
                    score=f"{answer.metric} after {epochs_word(answer.grace)}",
                    larger=answer.larger,
                ),
                f"Every searched trial as a line through its values; the {NAMED} best after "
                f"{epochs_word(answer.grace)} are thick and carry their number. The baseline, which sets nothing, "
                "is left out.",
                alt=f"Parallel coordinates of {len(paths)} trials over {len(answer.space)} dimensions.",
            )
        )
    keys = [dimension.key for dimension in answer.space]
    keys += [STAGES] * any(STAGES in trial.overrides for trial in answer.trials)
    rows: list[list[Cell]] = []
    for trial in answer.trials:
        test = trial.test or {}
        row: list[Cell] = [
            trial.number,
            _part(trial),
            trial.seed,
            trial.status,
            trial.epochs,
            trial.best(answer.metric, larger=answer.larger),
            test.get(TEST_SCORE),
            trial.seconds / 60,
        ]
        row += [value_word(trial.overrides[key]) if key in trial.overrides else None for key in keys]
        rows.append(row)
    columns: list[str | Column] = ["trial", "part", "seed", "status", "epochs", Column("best", ".3f", bar=True)]
    columns += [Column("test", ".3f"), Column("minutes", ".1f"), *keys]
    caption = f"All trials; best: of {answer.metric} on the validation part; test: {TEST_SCORE} on the test part"
    blocks.append(Table(columns, rows, caption=caption))
    return blocks


def _part(trial: Trial) -> str:
    if trial.final_of is not None:
        return f"final of {trial.final_of}"
    if trial.parent is not None:
        return f"goes on from {trial.parent}"
    return "search" if trial.number else "baseline"


def _curves(answer: Answer) -> "list[TrialCurve]":
    from hpa_ray.figures.study import TrialCurve

    curves = []
    for trial in answer.trials:
        points = [(line["epoch"], line[answer.metric]) for line in trial.lines if line.get(answer.metric) is not None]
        if points:
            epochs, values = zip(*points, strict=True)
            group = trial.number if trial.final_of is None else trial.final_of
            curves.append(TrialCurve(epochs, values, trial.status, group, trial.final_of is not None))
    return curves


def _axis(dimension: Dimension) -> "ParallelAxis":
    from hpa_ray.figures.study import ParallelAxis

    if dimension.choices:
        last = len(dimension.choices) - 1
        ticks = [(n / max(last, 1), value_word(value)) for n, value in enumerate(dimension.choices)]
    else:
        first, second = cuts(dimension)
        ends = (dimension.low, first, second, dimension.high)
        ticks = [(n / len(THIRDS), f"{end:.2g}") for n, end in enumerate(ends)]
    return ParallelAxis(dimension.key, tuple(ticks))


def _paths(answer: Answer) -> "list[TrialPath]":
    from hpa_ray.figures.study import TrialPath

    values = grace_values(answer.trials, answer.metric, larger=answer.larger, grace=answer.grace)
    runs = [trial for trial in searched(answer.trials) if trial.number in values and trial.overrides]
    best = sorted(runs, key=lambda trial: -values[trial.number] if answer.larger else values[trial.number])[:NAMED]
    return [
        TrialPath(
            tuple(_place(dimension, trial.overrides.get(dimension.key)) for dimension in answer.space),
            values[trial.number],
            f"trial {trial.number}" if trial in best else "",
        )
        for trial in runs
    ]


def _place(dimension: Dimension, value: object) -> float | None:
    """Where a value lies on its axis; None where it is not set, or is not of this space."""
    if dimension.choices:
        if value not in dimension.choices:
            return None
        return dimension.choices.index(value) / max(len(dimension.choices) - 1, 1)
    if not isinstance(value, (int, float)):
        return None
    low, high, at = ((math.log(x) if dimension.log else x) for x in (dimension.low, dimension.high, value))
    return min(max((at - low) / (high - low), 0.0), 1.0)


def space_table(answer: Answer) -> Table:
    rows: list[list[Cell]] = []
    for dimension in answer.space:
        values = ", ".join(map(value_word, dimension.choices))
        if not dimension.choices:
            scale = ", log scale" if dimension.log else ", whole numbers" if dimension.is_whole else ""
            values = f"{dimension.low:g} to {dimension.high:g}{scale}"
        when = "; ".join(f"{key} is {' or '.join(map(value_word, some))}" for key, some in dimension.when)
        tried = sum(dimension.key in trial.overrides for trial in searched(answer.trials))
        rows.append([dimension.key, values, f"only where {when}" if when else "always", tried])
    return Table(["key", "values", "active", "trials with it"], rows)
