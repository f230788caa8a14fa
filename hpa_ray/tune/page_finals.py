"""Finals against the baseline -> a section of study.html, with its figure. Before: finals, page_parts. After: page."""

from typing import TYPE_CHECKING

from hpa_ray.explore.folder import FigureFolder
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.page import Block, Column, Table, Text
from hpa_ray.page.sections import Cell
from hpa_ray.tune.answer import Answer
from hpa_ray.tune.finals import Difference, Final
from hpa_ray.tune.page_parts import DIFFERENCE, chart, classes_by_count, value_word

if TYPE_CHECKING:
    from hpa_ray.figures.study import ClassInterval

MAX_PANELS = 4
GAIN_COLUMNS = (Column("from", DIFFERENCE), Column("to", DIFFERENCE), "verdict")


def finals_blocks(answer: Answer, folder: FigureFolder) -> list[Block]:
    scores = [name for name in answer.finals[0].means if any(f.means.get(name) is not None for f in answer.finals)]
    keys = [dimension.key for dimension in answer.space]
    gains: list[list[Cell]] = []
    reached: list[list[Cell]] = []
    settings: list[list[Cell]] = []
    for final in answer.finals:
        title = _final_name(final, answer)
        if final.number:
            gains.append([title, final.num_seeds, *_gain_cells(final.rare), *_gain_cells(final.overall)])
        reached.append([title, final.num_seeds, *(_plus_minus(final.means[name], final.stds[name]) for name in scores)])
        settings.append(
            [title, *(value_word(final.overrides[key]) if key in final.overrides else None for key in keys)]
        )
    blocks: list[Block] = [
        Text(
            """The best trials of the search and the baseline, each trained again with several seeds and scored on the
            test part. Differences are of macro F1 at tuned thresholds, on the same images as the baseline; the 95 %
            intervals take in the choice of test images and of seeds. The winner was chosen on the validation part."""
        )
    ]
    if gains:
        heads = [Column(f"{what} classes", DIFFERENCE) for what in ("rare", "all")]
        columns: list[str | Column] = ["final", "seeds", heads[0], *GAIN_COLUMNS, heads[1], *GAIN_COLUMNS]
        blocks.append(Table(columns, gains, caption="Macro F1, difference to the baseline"))
    blocks.append(Table(["final", "seeds", *scores], reached, caption="Mean\u00b1standard deviation over seeds"))
    blocks.append(Table(["final", *keys], settings, caption="Settings"))
    compared = _compared(answer)
    if compared:
        panels = [(_final_name(final, answer), _class_intervals(final, answer)) for final in compared]
        from hpa_ray import figures  # late: it imports matplotlib

        blocks.append(
            chart(
                folder,
                "finals",
                figures.final_differences(panels, score="F1"),
                "F1 of each class against the baseline's finals on the test part, with 95 % intervals. Rare classes "
                "are shaded, classes with the most images stand on top. Of 20 classes that do not differ, one has an "
                "interval without 0.",
                alt=f"Dot plot of the difference in F1 of each class for {', '.join(panel for panel, _ in panels)}.",
            )
        )
        blocks.append(_class_table(compared[0], answer))
    return blocks


def _gain_cells(gain: Difference | None) -> list[Cell]:
    if gain is None:
        return [None, None, None, None]
    return [*gain, "noise" if gain.is_noise else "better" if gain.value > 0 else "worse"]


def _compared(answer: Answer) -> list[Final]:
    """Finals that differ from the baseline, the winner first."""
    found = [final for final in answer.finals if final.number and final.overall is not None]
    return sorted(found, key=lambda final: (final.number != answer.winner, final.number))[:MAX_PANELS]


def _final_name(final: Final, answer: Answer) -> str:
    name = f"trial {final.number}" if final.number else "baseline"
    return f"{name} (winner)" if final.number == answer.winner else name


def _plus_minus(mean: float | None, std: float | None) -> str | None:
    if mean is None:
        return None
    return f"{mean:.3f}\u00b1{std:.3f}" if std is not None else f"{mean:.3f}"


def _class_intervals(final: Final, answer: Answer) -> "list[ClassInterval]":
    from hpa_ray.figures.study import ClassInterval

    rows = []
    for title, gain in (("all classes, macro", final.overall), ("rare classes, macro", final.rare)):
        if gain is not None:
            rows.append(ClassInterval(None, title, gain.value, gain.low, gain.high))
    for k in classes_by_count(len(final.classes)):
        gain = final.classes[k].f1_difference
        value, low, high = (None, None, None) if gain is None else gain
        rows.append(ClassInterval(k, CLASS_NAMES[k], value, low, high, bool(answer.rare_K[k])))
    return rows


def _class_table(final: Final, answer: Answer) -> Table:
    rows: list[list[Cell]] = []
    for k in classes_by_count(len(final.classes)):
        one = final.classes[k]
        rows.append(
            [
                k,
                CLASS_NAMES[k],
                "rare" if answer.rare_K[k] else None,
                one.num_images,
                one.f1,
                *_gain_cells(one.f1_difference),
                one.average_precision,
                one.average_precision_std,
                one.average_precision_difference,
            ]
        )
    return Table(
        [
            "class",
            "name",
            "rare",
            Column("images", bar=True),
            Column("F1", ".3f"),
            Column("to baseline", DIFFERENCE),
            *GAIN_COLUMNS,
            Column("AP", ".3f"),
            Column("std", ".3f"),
            Column("to baseline", DIFFERENCE),
        ],
        rows,
        caption=f"Every class of {_final_name(final, answer)}, mean over seeds; AP: average precision, its standard "
        "deviation over seeds",
    )
