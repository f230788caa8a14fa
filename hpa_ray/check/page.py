"""Reports -> check.html."""

from collections.abc import Sequence

from hpa_ray.check.report import HPA_MEAN, Report
from hpa_ray.labels import CLASS_TABLE
from hpa_ray.page import Card, Cards, Column, Problems, Section, Table, Text, render_page

SHOWN = 500


def check_page(reports: Sequence[Report], plan: Sequence[str]) -> str:
    """One page for all sources, the first one in full; plan: what `prepare` would write and take."""
    sections: list[Section] = []
    for number, report in enumerate(reports):
        name = "" if len(reports) == 1 else f"Source {number + 1}: "
        sections.append(Section(f"{name}What is there", _overview(report)))
        sections.append(Section(f"{name}Problems", _problems(report)))
        if report.decoded:
            sections.append(Section(f"{name}Files and intensities", _pixels(report)))
        if report.class_counts is not None:
            sections.append(Section(f"{name}Classes", _classes(report)))
    if plan:
        sections.append(Section("Preparing it", [Text("\n\n".join(plan))]))
    where = reports[0].images or reports[0].labels or ""
    return render_page("Check of the data", sections, subtitle=where)


def _overview(report: Report) -> list[Cards | Text]:
    cards = []
    if report.images is not None:
        cards += [
            Card("images", report.num_images, f"{report.num_files:,} files, {report.num_bytes / 2**20:,.1f} MiB"),
            Card("usable", report.num_usable, "all stains, readable" if report.decoded else "all stains; not decoded"),
        ]
    if report.num_labelled is not None:
        cards.append(Card("labelled", report.num_labelled, "rows of the label table"))
    cards.append(Card("problems", report.num_problems, f"{len(report.warnings())} more things worth a look"))
    places = [f"images: {report.images}"] if report.images else []
    places += [f"labels: {report.labels}"] if report.labels else []
    return [Cards(cards), Text("\n\n".join(places))]


def _problems(report: Report) -> list[Problems | Table]:
    files = report.files_by_reason()
    lines = [*report.table_problems, *(f"{file}: {reason}" for reason, some in files.items() for file in some)]
    if report.num_unlabelled:
        lines.append(f"{report.num_unlabelled:,} images have no row in {report.labels}")
    lines += [f"{name}: not named <Id>_<color>.<ext> of a known format" for name in report.other_files]
    warnings = report.warnings()
    if report.num_absent:
        warnings.append(f"{report.num_absent:,} rows of {report.labels} have no files in {report.images}")
    reasons = [(reason, len(some)) for reason, some in reversed(files.items())]
    return [
        *([Table(["reason", "images"], reasons, caption="Images that can not be used")] if reasons else []),
        Problems(lines[:SHOWN], total=len(lines), level="error", none="No problem found."),
        Problems(warnings, level="warning", none="Nothing else that is odd."),
    ]


def _pixels(report: Report) -> list[Table]:
    rules = [
        (stain, rule, count, report.peaks[rule])
        for stain, counts in report.formats.items()
        for rule, count in counts.most_common()
    ]
    stains = [
        (stain, mean, report.std[stain], HPA_MEAN[stain], mean / HPA_MEAN[stain]) for stain, mean in report.mean.items()
    ]
    return [
        Table(["stain", "how files become 8-bit gray", "files", "highest value"], rules, caption="Formats"),
        Table(
            ["stain", Column("mean", ".4f"), Column("std", ".4f"), Column("HPA mean", ".4f"), Column("ratio", ".2f")],
            stains,
            caption="Intensity from 0 to 1, every image weighing the same; HPA: the competition's training images",
        ),
        Table(["size in px", "images"], report.sizes_px.most_common(), caption="Sizes of the planes"),
    ]


def _classes(report: Report) -> list[Table]:
    rows = [(k, name, n, share, CLASS_TABLE[k][1]) for k, name, n, share in report.class_rows()]
    per_image = sorted(report.labels_per_image.items())
    return [
        Table(
            ["class", "name", Column("images", bar=True), Column("share", ".2%"), "in the competition"],
            rows,
            scroll_rows=30,
        ),
        Table(["labels on an image", Column("images", bar=True)], per_image),
    ]
