"""Scores of a run -> sections: cards, classes, precision and recall, calibration. Before: files. After: pages."""

import numpy as np

from hpa_ray.labels import CLASS_NAMES
from hpa_ray.metrics.calibration import reliability
from hpa_ray.metrics.curves import precision_recall
from hpa_ray.page import Block, Card, Cards, Column, Section, Table, Text
from hpa_ray.page.sections import Cell
from hpa_ray.report.contents import PART_NAMES, Part, RunFiles
from hpa_ray.report.parts import chart, class_name, duration, number, span

# N images, K classes

NO_TRUTH = "The run folder has no predictions with their truth (predictions_{part}.parquet), so this is left out."
HEADLINES = (
    ("macro F1", "macro_f1_tuned", "floor_macro_f1"),
    ("micro F1", "micro_f1_tuned", "floor_micro_f1"),
    ("mean average precision", "map", None),
    ("exact match", "exact_match_tuned", None),
)
CLASS_COLUMNS = (
    ("support", Column("images", bar=True)),
    ("predicted", Column("predicted")),
    ("precision", Column("precision", ".3f")),
    ("recall", Column("recall", ".3f")),
    ("f1", Column("F1", ".3f", bar=True)),
    ("f1_low", Column("F1 from", ".3f")),
    ("f1_high", Column("to", ".3f")),
    ("average_precision", Column("AP", ".3f")),
    ("auroc", Column("AUROC", ".3f")),
    ("ece", Column("ECE", ".3f")),
    ("threshold", Column("threshold", ".3f")),
)
COUNTS = ("support", "predicted")


def score_cards(run: RunFiles) -> Cards:
    cards = []
    other = "val" if run.main == "test" else None
    for title, name, floor_name in HEADLINES:
        value = run.score(name)
        notes = [f"95 %: {text}" if (text := span(run.interval(name))) else ""]
        if other and (on_val := run.score(name, other)) is not None:
            notes.append(f"validation {on_val:.3f}")
        if floor_name and (floor := run.score(floor_name)) is not None:
            notes.append(f"constant {floor:.3f}")
        cards.append(Card(title, number(value) or "unknown", "; ".join(filter(None, notes))))
    images, trained = run.score("num_images"), run.score("num_train_images", "val")
    note = f"{trained:,.0f} to train on" if trained is not None else ""
    cards.append(
        Card(
            "images out of fold" if run.main == "oof" else f"images, {PART_NAMES[run.main]}",
            number(images, ",.0f") or "unknown",
            note,
        )
    )
    epochs, best = run.score("epochs", "val"), run.score("best_epoch", "val")
    if epochs is not None:
        early = ", stopped early" if run.summary.get("stopped_early") else ""
        cards.append(Card("epochs", f"{epochs:,.0f}", f"best: {best:,.0f}{early}" if best is not None else ""))
    wall = run.score("wall_s", "val")
    if wall is not None:
        cards.append(Card("wall time", duration(wall)))
    return Cards(cards)


def class_section(part: Part | None) -> Section:
    """The table of classes, sorted by a click on a head."""
    if part is None or not part.classes:
        return Section("Classes", [Text("The run folder has no table of classes, so it is left out.")])
    columns = [(name, column) for name, column in CLASS_COLUMNS if name in part.classes]
    rows: list[list[Cell]] = []
    for k, name in enumerate(CLASS_NAMES):
        cells: list[Cell] = [k, name]
        for column, _ in columns:
            value = float(part.classes[column][k])
            cells.append(None if np.isnan(value) else int(value) if column in COUNTS else value)
        rows.append(cells)
    text = (
        f"Of the {PART_NAMES[part.name]}, at the thresholds of the last column; empty: undefined (precision of a class "
        "never predicted). AP: average precision; AUROC: area under the ROC curve. A click on a head sorts."
    )
    table = Table(["class", "name", *(column for _, column in columns)], rows, caption="Scores of every class")
    return Section("Classes", [Text(text), table])


def precision_section(part: Part | None, *, wanted: str) -> Section:
    """Precision against recall: all classes together, then each that has images."""
    title = "Precision and recall"
    if part is None or part.target_NK is None:
        return Section(title, [Text(NO_TRUTH.format(part=wanted))])
    from hpa_ray import figures  # late: it imports matplotlib
    from hpa_ray.figures.scores import PrCurve

    target_NK, probability_NK = part.target_NK, part.probability_NK
    if not target_NK.any():
        return Section(title, [Text("No image of this part has any class, so there is no recall.")])

    def curve(name: str, probability: np.ndarray, target: np.ndarray, decided: np.ndarray) -> PrCurve:
        precision, recall, _ = precision_recall(probability, target)
        ap = float(-(np.diff(recall) * precision[:-1]).sum())
        hits, chosen = int((decided & target).sum()), int(decided.sum())
        at = (hits / int(target.sum()), hits / chosen) if chosen else None
        return PrCurve(name, precision, recall, float(target.mean()), ap, at)

    curves = [curve("all classes (micro)", probability_NK.ravel(), target_NK.ravel(), part.predicted_NK.ravel())]
    for k in map(int, np.flatnonzero(target_NK.any(axis=0))):
        curves.append(curve(class_name(k), probability_NK[:, k], target_NK[:, k], part.predicted_NK[:, k]))
    by_ap = sorted(curves[1:], key=lambda one: -one.average_precision)
    best, worst = by_ap[0], by_ap[-1]
    caption = (
        "Precision at each recall a class can reach by moving its threshold. Dot: the threshold in use. Dotted: the "
        "share of images that have the class, which is what guessing gives. Classes without an image are left out. The "
        "first panel takes all classes together at one threshold; its dot, with a threshold per class, may lie off it."
    )
    alt = (
        f"Precision against recall of {len(curves) - 1} classes; average precision is highest for {best.title} "
        f"({best.average_precision:.2f}) and lowest for {worst.title} ({worst.average_precision:.2f})."
    )
    return Section(title, [chart(figures.pr_curves(curves), caption, alt=alt)])


def calibration_section(part: Part | None, *, wanted: str) -> Section:
    title = "Calibration"
    if part is None or part.target_NK is None:
        return Section(title, [Text(NO_TRUTH.format(part=wanted))])
    from hpa_ray import figures

    found = reliability(part.probability_NK, part.target_NK, bins=15)
    drawing = figures.reliability(found.edges, found.confidence, found.observed, found.num_decisions, ece=found.ece)
    caption = (
        "All (image, class) pairs in 15 bins of probability. Hollow: fewer than 20 pairs. ECE, the expected "
        "calibration error, is the mean distance from the diagonal, weighted by pairs; as nearly all pairs are near 0, "
        "it is small even where the high probabilities are far off, so look at the curve too."
    )
    mean, share = float(part.probability_NK.mean()), float(part.target_NK.mean())
    lean = "more often" if mean > share else "less often"
    text = (
        f"On average the model gives a class a probability of {mean:.3f}, and {share:.3f} of the pairs have it: it "
        f"expects classes {lean} than they are there."
    )
    alt = f"Reliability diagram and histogram of probabilities; expected calibration error {found.ece:.3f}."
    return Section(title, [Text(text), chart(drawing, caption, alt=alt)])


def together_section(part: Part | None, *, wanted: str) -> Section:
    """Which classes go together, in the labels and in the predictions."""
    title = "What occurs together"
    if part is None or part.target_NK is None:
        return Section(title, [Text(NO_TRUTH.format(part=wanted))])
    from hpa_ray import figures
    from hpa_ray.figures.matrices import correlation_limit, phi_coefficients, present

    order = present(part.target_NK | part.predicted_NK)
    if len(order) < 2:
        return Section(title, [Text("Fewer than two classes are there or predicted, so nothing occurs together.")])
    true_KK, predicted_KK = phi_coefficients(part.target_NK), phi_coefficients(part.predicted_NK)
    pairs = np.triu_indices(len(true_KK), 1)
    values = np.abs(true_KK[pairs])
    limit = correlation_limit(values[np.isfinite(values)])
    drawing = figures.correlation_pair(true_KK, predicted_KK, order, limit=limit)
    caption = (
        "Correlation (phi) of having one class and having the other, left among the labels, right among the "
        "predictions, on one scale. A pair that is red only at the right is predicted together too often."
    )
    both = np.isfinite(true_KK[pairs]) & np.isfinite(predicted_KK[pairs])
    shift = np.where(both, predicted_KK[pairs] - true_KK[pairs], 0)
    top = [n for n in np.argsort(-np.abs(shift), kind="stable")[:8] if shift[n]]
    rows: list[list[Cell]] = [
        [class_name(int(pairs[0][n])), class_name(int(pairs[1][n])), float(true_KK[pairs][n]),
         float(predicted_KK[pairs][n]), float(shift[n])] for n in top
    ]  # fmt: skip
    signed = [Column(name, "+.2f") for name in ("in the labels", "in the predictions", "difference")]
    table = Table(["class", "and", *signed], rows, caption="Pairs whose correlation differs most")
    alt = f"Two heat maps of correlations between {len(order)} classes: labels and predictions."
    return Section(title, [chart(drawing, caption, alt=alt), *([table] if rows else [])])


def threshold_section(run: RunFiles, part: Part | None) -> Section:
    blocks: list[Block] = []
    if part is not None and not np.isnan(part.threshold_K).any():
        from hpa_ray import figures
        from hpa_ray.figures.scores import Spread

        rows = []
        for k in range(len(CLASS_NAMES)):
            own = part.probability_NK[part.target_NK[:, k], k] if part.target_NK is not None else np.empty(0)
            low, middle, high = np.quantile(own, (0.25, 0.5, 0.75)) if len(own) else (0, 0, 0)
            spread = (float(low), float(middle), float(high)) if len(own) else None
            rows.append(Spread(k, float(part.threshold_K[k]), spread))
        caption = (
            f"A class is predicted right of its dot. Bars: probabilities of the images of the {PART_NAMES[part.name]} "
            "that have the class; where the dot lies right of the bar, most of them are missed. Ends of the axis: "
            "0.001 and 0.999, or beyond."
        )
        low, high = float(part.threshold_K.min()), float(part.threshold_K.max())
        alt = f"Dot plot of the thresholds of {len(rows)} classes, from {low:.3f} to {high:.3f}."
        blocks.append(chart(figures.threshold_dots(rows), caption, alt=alt))
    else:
        blocks.append(Text("The predictions do not carry their thresholds, so these are left out."))
    if run.rules:
        table: list[list[Cell]] = [
            [f"{name} (in use)" if name == run.stored_rule else name, rule.macro_f1, rule.macro_f1_low,
             rule.macro_f1_high, rule.micro_f1] for name, rule in run.rules.items()
        ]  # fmt: skip
        columns = [Column(title, ".3f") for title in ("macro F1", "from", "to", "micro F1")]
        caption = "Rules for thresholds on the validation part, each judged on images it was not tuned on"
        blocks.append(Table(["rule", *columns], table, caption=caption))
    return Section("Thresholds", blocks)
