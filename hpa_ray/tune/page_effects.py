"""Effects of choices -> a section of study.html, with its figures. Before: effects, page_parts. After: page."""

import math
from typing import TYPE_CHECKING

import numpy as np

from hpa_ray.explore.folder import FigureFolder
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.page import Block, Column, Table, Text
from hpa_ray.tune.answer import Answer
from hpa_ray.tune.effects import choice_label
from hpa_ray.tune.page_parts import DIFFERENCE, chart, classes_by_count, epochs_word

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from hpa_ray.figures.study import Interval


def effects_blocks(answer: Answer, folder: FigureFolder) -> list[Block]:
    blocks: list[Block] = [
        Text(
            f"""Every trial that did not fail was given {epochs_word(answer.grace)}; the effects are of the best
            {answer.metric} within them, on the validation part, in an additive model of all dimensions together. They
            say what is worth a try and prove nothing: a sampler that learns tries more of what was good, and a choice
            that helps only together with another shows as half an effect."""
        )
    ]
    known = [effect for effect in answer.effects if effect.difference is not None]
    if not known:
        return [*blocks, Text("Too few trials for effects.")]
    from hpa_ray import figures  # late: it imports matplotlib

    rows = _intervals(answer)
    clear = [f"{effect.key}={effect.choice}" for effect in known if not effect.is_noise]
    blocks.append(
        chart(
            folder,
            "effects",
            figures.effect_dots(rows, score=answer.metric, larger=answer.larger),
            f"Effect of each choice on {answer.metric} with its 95 % interval, against the mean over the choices of "
            "its dimension; at the right the number of trials. Hollow: one trial, so no interval.",
            alt=f"Dot plot of the effects of choices. Outside noise: {', '.join(clear) or 'none'}.",
        )
    )
    if (heat := _heat_map(answer)) is not None:
        blocks.append(
            chart(
                folder,
                "class_effects",
                heat,
                "Effect of each choice on the average precision of each rare class, on the validation part within the "
                "same epochs. Framed, with its number: the interval does not hold 0, which by chance alone is so in "
                "about one cell of 20. Blue is better.",
                alt="Heat map of the effects of choices on the average precision of each rare class.",
            )
        )
    if answer.importance:
        blocks.append(
            Table(
                ["dimension", Column("share of the variance", ".1%", bar=True)],
                answer.importance,
                caption="How much of the differences between trials a dimension explains, less what chance explains",
            )
        )
    dimension_of = {dimension.key: dimension for dimension in answer.space}
    table = [
        (
            effect.key,
            choice_label(dimension_of[effect.key], effect.choice),
            effect.num_trials,
            effect.difference,
            effect.low,
            effect.high,
            _verdict(effect.num_trials, effect.difference, effect.is_noise, larger=answer.larger),
        )
        for effect in answer.effects
    ]
    signed = [Column(title, DIFFERENCE) for title in ("effect", "from", "to")]
    caption = f"Effects on {answer.metric} with 95 % bootstrap intervals"
    blocks.append(Table(["dimension", "choice", "trials", *signed, "verdict"], table, caption=caption))
    return blocks


def _verdict(num_trials: int, difference: float | None, is_noise: bool, *, larger: bool) -> str:
    if num_trials == 0:
        return "never tried"
    if difference is None:
        return "nothing to compare with"
    if num_trials == 1:
        return "one trial, not judged"
    return "noise" if is_noise else "helps" if (difference > 0) == larger else "hurts"


def _intervals(answer: Answer) -> "list[Interval]":
    from hpa_ray.figures.study import Interval

    dimension_of = {dimension.key: dimension for dimension in answer.space}
    return [
        Interval(
            effect.key,
            choice_label(dimension_of[effect.key], effect.choice),
            effect.difference,
            effect.low,
            effect.high,
            f"{effect.num_trials}" if effect.num_trials else "never",
        )
        for effect in answer.effects
    ]


def _heat_map(answer: Answer) -> "Drawing | None":
    classes = [k for k in classes_by_count(len(CLASS_NAMES)) if k in answer.class_effects]
    if not classes:
        return None
    from hpa_ray import figures

    rows = [answer.class_effects[k] for k in classes]
    known = [column for column in range(len(rows[0])) if any(row[column].difference is not None for row in rows)]
    if not known:
        return None
    values_RE = np.array([[_or_nan(row[column].difference) for column in known] for row in rows])
    clear_RE = np.array([[not row[column].is_noise for column in known] for row in rows])
    dimension_of = {dimension.key: dimension for dimension in answer.space}
    columns = [(e.key, choice_label(dimension_of[e.key], e.choice)) for e in (rows[0][column] for column in known)]
    return figures.class_effects(values_RE, clear_RE, classes, columns, score="average precision")


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
