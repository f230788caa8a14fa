"""Several run folders -> one page that compares them. Before: compare, report sections. After: report/page."""

from collections.abc import Sequence

import numpy as np

from hpa_ray.labels import CLASS_NAMES, CLASS_TABLE, NUM_CLASSES
from hpa_ray.page import Block, Column, Section, Table, Text, render_page
from hpa_ray.page.sections import Cell
from hpa_ray.report.compare import Compared, Decided, compare, shared_decisions
from hpa_ray.report.contents import PART_NAMES, RunFiles
from hpa_ray.report.facts_part import flat
from hpa_ray.report.parts import chart, duration, span, word

MAX_RUNS = 36
"""More than so many lines can not be told apart."""
TABLE_SCORES = (
    ("macro F1", "macro_f1_tuned"),
    ("micro F1", "micro_f1_tuned"),
    ("mAP", "map"),
    ("exact match", "exact_match_tuned"),
)
CURVES = (("Validation loss", "val_loss"), ("Macro F1, thresholds tuned", "macro_f1_tuned"), ("mAP", "map"))
OWN_KEYS = ("run.name", "run.storage", "run.resume")
MAX_PANELS = 4


def compare_page(runs: Sequence[RunFiles]) -> str:
    """The first run is what the others are compared with. Raises InputError where their labels differ."""
    names = unique_names(runs)
    decided = shared_decisions(list(runs))
    others = [compare(decided.by_run[0], one, decided.target_NK) for one in decided.by_run[1:]] if decided else []
    sections = [
        Section("Result", _result(runs, names, decided, others)),
        Section("Curves", [curves_block(runs, names)]),
        Section("Classes", _classes(names, decided, others)),
        Section("Settings that differ", [_settings(runs, names)]),
    ]
    return render_page("Comparison of runs", sections, subtitle=", ".join(names))


def unique_names(runs: Sequence[RunFiles]) -> list[str]:
    """Names of runs; where two have the same, with the folder above."""
    names = [run.name for run in runs]
    parents = [run.uri.rstrip("/").split("/") for run in runs]
    named = ["/".join(parents[k][-2:]) if names.count(name) > 1 else name for k, name in enumerate(names)]
    return [f"{name} ({k + 1})" if named.count(name) > 1 else name for k, name in enumerate(named)]


def _result(
    runs: Sequence[RunFiles], names: Sequence[str], decided: Decided | None, others: Sequence[Compared]
) -> list[Block]:
    part = decided.part if decided else None
    has_intervals = any(run.interval(key, part) for run in runs for _, key in TABLE_SCORES)
    rows: list[list[Cell]] = []
    for run, name in zip(runs, names, strict=True):
        cells: list[Cell] = [name]
        for _, key in TABLE_SCORES:
            cells += [run.score(key, part), *([span(run.interval(key, part)) or None] if has_intervals else [])]
        wall, epochs = run.score("wall_s", "val"), run.score("best_epoch", "val")
        cells += [None if epochs is None else int(epochs), None if wall is None else duration(wall)]
        rows.append(cells)
    columns: list[str | Column] = ["run"]
    for title, _ in TABLE_SCORES:
        columns += [Column(title, ".3f"), *(["95 %"] if has_intervals else [])]
    where = PART_NAMES[part] if part else "part each summary is of"
    table = Table([*columns, "best epoch", "wall time"], rows, caption=f"Scores of the {where}")
    if decided is None:
        text = (
            "The runs have no predictions of one part, with their truth, on images in common: their scores stand side "
            "by side, but whether they differ by more than chance can not be said."
        )
        return [Text(text), table]
    words = " ".join(_verdict(name, one) for name, one in zip(names[1:], others, strict=True))
    text = f"On the {len(decided.target_NK):,} images that all of them have in the {PART_NAMES[decided.part]}: {words}"
    return [Text(text), table, *_differences(names, decided, others)]


def _verdict(name: str, found: Compared) -> str:
    gain = found.scores["macro F1"]
    size = f"{gain.value:+.3f} macro F1, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
    if gain.is_noise:
        return f"{name} does not differ from the first by more than the choice of images explains ({size})."
    return f"{name} is {'better' if gain.value > 0 else 'worse'} than the first ({size})."


def _differences(names: Sequence[str], decided: Decided, others: Sequence[Compared]) -> list[Block]:
    from hpa_ray import figures  # late: it imports matplotlib
    from hpa_ray.figures.runs import ScoreDifference

    rows: list[list[Cell]] = [
        [name, score, *gain, "within noise" if gain.is_noise else "better" if gain.value > 0 else "worse"]
        for name, found in zip(names[1:], others, strict=True)
        for score, gain in found.scores.items()
    ]
    dots = [
        ScoreDifference(score, run, *gain)
        for run, found in enumerate(others, 1)
        for score, gain in found.scores.items()
    ]
    signed = [Column(title, "+.3f") for title in ("difference", "from", "to")]
    tuned = "" if decided.part == "test" else " Thresholds are tuned on one half of the images and used on the other."
    caption = (
        f"Difference to {names[0]} on the same images, with 95 % intervals of a paired bootstrap over images "
        f"(1,000 resamples).{tuned} It does not hold the luck of a training: for that, train each with several seeds."
    )
    alt = "Dot plot of differences: " + "; ".join(f"{row[0]} {row[1]} {row[5]}" for row in rows)
    drawing = figures.score_differences(dots, names, first=names[0])
    return [
        chart(drawing, caption, alt=alt),
        Table(["run", "score", *signed, "verdict"], rows, caption=f"Differences to {names[0]}"),
    ]


def curves_block(runs: Sequence[RunFiles], names: Sequence[str]) -> Block:
    """Learning curves of all runs over each other."""
    from hpa_ray import figures
    from hpa_ray.figures.runs import RunCurve

    panels = []
    for title, key in CURVES:
        found = [(name, [line for line in run.lines if key in line]) for run, name in zip(runs, names, strict=True)]
        curves = [
            RunCurve(name, [int(line["epoch"]) for line in lines], [line[key] for line in lines])
            for name, lines in found
            if lines
        ]
        if curves:
            panels.append((title, curves))
    if not panels:
        return Text("None of the run folders has a metrics.jsonl, so there are no curves.")
    drawing = figures.run_curves(panels, list(names))
    alt = f"Learning curves of {', '.join(names)}."
    return chart(drawing, "On the validation part, by epoch.", alt=alt)


def _classes(names: Sequence[str], decided: Decided | None, others: Sequence[Compared]) -> list[Block]:
    if decided is None:
        return [Text("Without images in common, classes are not compared.")]
    from hpa_ray import figures
    from hpa_ray.figures.study import ClassInterval

    order = sorted(range(NUM_CLASSES), key=lambda k: -CLASS_TABLE[k][1])
    there_K = decided.target_NK.sum(axis=0)
    panels = []
    for name, found in list(zip(names[1:], others, strict=True))[:MAX_PANELS]:
        one = [ClassInterval(None, "all classes, macro", *found.scores["macro F1"])]
        one += [ClassInterval(k, CLASS_NAMES[k], *(found.f1_K[k] if there_K[k] else (None, None, None))) for k in order]
        panels.append((name, one))
    caption = (
        f"F1 of each class against {names[0]}, with 95 % intervals; classes with the most images of the atlas on top. "
        "Of 20 classes that do not differ, one has an interval without 0."
    )
    if len(others) > MAX_PANELS:
        caption += f" The first {MAX_PANELS} of {len(others)} runs are drawn; the table has all."
    against = f"{names[0]}, {PART_NAMES[decided.part]}"
    drawing = figures.final_differences(panels, score="F1", against=against)
    f1_RK = [_f1(one, decided) for one in decided.by_run]
    rows: list[list[Cell]] = [
        [k, CLASS_NAMES[k], int(there_K[k]), *(float(f1_K[k]) for f1_K in f1_RK)] for k in range(NUM_CLASSES)
    ]
    heads = [Column(name, ".3f") for name in names]
    alt = f"Dot plots of the difference in F1 of each class for {', '.join(name for name, _ in panels)}."
    table = Table(["class", "name", Column("images", bar=True), *heads], rows, caption="F1 of each class, by run")
    return [chart(drawing, caption, alt=alt), table]


def _f1(decided_NK: np.ndarray, decided: Decided) -> np.ndarray:
    hits_K = (decided_NK & decided.target_NK).sum(axis=0)
    both_K = decided_NK.sum(axis=0) + decided.target_NK.sum(axis=0)
    f1_K: np.ndarray = 2 * hits_K / np.maximum(both_K, 1)
    return f1_K


def _settings(runs: Sequence[RunFiles], names: Sequence[str]) -> Block:
    trees = [flat(run.config) for run in runs]
    keys = [key for key in dict.fromkeys(key for tree in trees for key in tree) if key not in OWN_KEYS]
    differing = [key for key in keys if any(tree.get(key) != trees[0].get(key) for tree in trees)]
    if not differing:
        return Text("None: the same settings, so what differs is chance, the data, or the version of the program.")
    rows: list[list[Cell]] = [[key, *(word(tree.get(key)) for tree in trees)] for key in differing]
    return Table(["key", *names], rows)
