"""What the analysis found -> sections: confusions, suspected labels, the map. Before: files. After: run_page."""

from hpa_ray.analysis.confusions import confusions
from hpa_ray.labels import CLASS_NAMES, multi_hot
from hpa_ray.page import Block, Column, Section, Table, Text
from hpa_ray.page.sections import Cell
from hpa_ray.report.contents import RunFiles
from hpa_ray.report.parts import chart, class_name, class_names

NO_ANALYSIS = "The run folder has no analysis of this part; `hpa-ray analyze analyze.run=FOLDER` makes one."
SHOWN_ERRORS = 40


def error_section(run: RunFiles) -> Section:
    """Classes taken for others, and labels that may be wrong."""
    found = run.analysis
    if found is None:
        return Section("Errors", [Text(NO_ANALYSIS)])
    blocks: list[Block] = []
    if found.confusions:
        rows: list[list[Cell]] = [
            [class_name(one.missed), class_name(one.predicted), one.images, one.share, one.lift]
            for one in found.confusions
        ]
        columns: list[str | Column] = [
            "missed",
            "predicted instead",
            Column("images", bar=True),
            Column("share", ".0%"),
            Column("lift", ".1f"),
        ]
        blocks.append(
            Text(
                """An image has the first class, the model does not predict it, and predicts the second, which the image
                does not have. Share: of the images where the first is missed; lift: how much more often than the second
                is wrongly predicted anyway. With several classes to an image this is no proof that one was taken for
                the other."""
            )
        )
        blocks.append(Table(columns, rows, caption="Classes missed, and what was predicted instead", scroll_rows=15))
        blocks += _heat_map(run)
    else:
        blocks.append(Text("No class was missed together with the same wrong one often enough to say so."))
    if found.label_errors:
        listed = found.label_errors[:SHOWN_ERRORS]
        told: list[list[Cell]] = [
            [
                one.image_id,
                class_name(one.of),
                "given" if one.given else "not given",
                one.probability,
                one.score,
                "; ".join(class_names(near.labels) for near in one.neighbors[:3]) or None,
            ]
            for one in listed
        ]
        heads: list[str | Column] = [
            "image",
            "class",
            "label",
            Column("probability", ".3f"),
            Column("score", ".3f"),
            "labels of its neighbours",
        ]
        of = f" (the first {len(listed)} of {len(found.label_errors)})" if len(listed) < len(found.label_errors) else ""
        blocks.append(
            Text(
                f"""Labels worth a second look{of}: the model contradicts them, and often the images nearest to them do
                too. A suspicion, not a verdict: a model errs most where a class is rare."""
            )
        )
        blocks.append(Table(heads, told, caption="Suspected label errors, the strongest first", scroll_rows=12))
    blocks += [Text(note) for note in found.notes]
    return Section("Errors", blocks)


def _heat_map(run: RunFiles) -> list[Block]:
    """All missed classes against all wrong ones, from the predictions of the part."""
    part = run.parts.get(run.main)
    if part is None or part.target_NK is None:
        return []
    from hpa_ray import figures  # late: it imports matplotlib

    counted = confusions(part.target_NK, part.predicted_NK)
    drawing = figures.confusion_heatmap(counted.counts_KK, counted.missed_K, counted.lift_KK)
    caption = "Rows: the class that was missed, with how often; columns: what was predicted and is not there."
    return [chart(drawing, caption, alt="Heat map of missed classes against wrongly predicted ones.")]


def map_section(run: RunFiles) -> Section:
    """What the last layer sees, in two dimensions, and how well neighbours agree."""
    if run.place is None:
        return Section("Map of the images", [Text(NO_ANALYSIS)])
    from hpa_ray import figures  # late: it imports matplotlib

    found = run.analysis.map if run.analysis is not None else None
    method, explained = (found.method, found.explained) if found is not None else ("map", None)
    drawing = figures.embedding_map(run.place.at_N2, multi_hot(run.place.truth), method=method, explained=explained)
    caption = (
        f"Every dot is an image, placed by {method.upper()} of what the last layer sees of it, in the colour of its "
        "rarest class here: images that lie together look alike to the model."
    )
    alt = f"Scatter plot of {len(run.place.truth)} images in two dimensions, coloured by class."
    blocks: list[Block] = [chart(drawing, caption, alt=alt)]
    retrieval = run.analysis.retrieval if run.analysis is not None else None
    if retrieval is not None:
        values = [(k, value) for k, value in enumerate(retrieval.precision_per_class) if value is not None]
        rows: list[list[Cell]] = [[k, CLASS_NAMES[k], value] for k, value in sorted(values, key=lambda one: -one[1])]
        mean = f", on average {retrieval.mean:.0%}" if retrieval.mean is not None else ""
        blocks.append(Text(f"Share of the {retrieval.k} nearest images that have the class too{mean}:"))
        blocks.append(Table(["class", "name", Column("neighbours with it", ".0%", bar=True)], rows, scroll_rows=10))
    return Section("Map of the images", blocks)
