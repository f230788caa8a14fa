"""A run folder -> its page. Before: report/files, words and the sections. After: report/page, cli."""

from collections.abc import Sequence

from hpa_ray.page import Section, Text, render_page
from hpa_ray.report.contents import PART_NAMES, RunFiles
from hpa_ray.report.errors_part import error_section, map_section
from hpa_ray.report.facts_part import data_section, settings_section, speed_section
from hpa_ray.report.gallery import gallery_blocks
from hpa_ray.report.parts import chart
from hpa_ray.report.scores_part import (
    calibration_section,
    class_section,
    precision_section,
    score_cards,
    threshold_section,
    together_section,
)
from hpa_ray.report.words import how_ended, in_words

MAX_BYTES = 5_000_000
"""Of a page: what a mail takes, and a phone opens."""
MARGIN_BYTES = 20_000


def run_page(run: RunFiles) -> str:
    """The page as text, below MAX_BYTES: the gallery gets what the rest leaves. Raises InputError."""
    return with_gallery(run, run_sections(run), title=f"Run {run.name}", subtitle=subtitle(run))


def run_sections(run: RunFiles) -> list[Section]:
    """All but the gallery."""
    part, wanted = run.parts.get(run.main), run.main
    words = [text for text in (how_ended(run), *in_words(run)) if text]
    return [
        Section(
            "Result", [score_cards(run), Text("\n\n".join(words) or "There are no numbers to read anything from.")]
        ),
        curve_section(run),
        class_section(part),
        precision_section(part, wanted=wanted),
        calibration_section(part, wanted=wanted),
        together_section(part, wanted=wanted),
        threshold_section(run, part),
        error_section(run),
        map_section(run),
        data_section(run),
        speed_section(run),
        settings_section(run),
    ]


def with_gallery(run: RunFiles, sections: Sequence[Section], *, title: str, subtitle: str) -> str:
    """The page with the gallery behind the section of errors, as large as there is room for."""
    at = 1 + next(number for number, section in enumerate(sections) if section.title == "Errors")

    def page(gallery: Section) -> str:
        return render_page(title, [*sections[:at], gallery, *sections[at:]], subtitle=subtitle)

    used = len(page(Section("Gallery", [])).encode()) + MARGIN_BYTES
    gradcam = run.analysis.gradcam if run.analysis is not None else None
    blocks = gallery_blocks(run.gallery, budget=max(0, MAX_BYTES - used), gradcam=gradcam)
    return page(Section("Gallery", blocks))


def subtitle(run: RunFiles) -> str:
    model = (run.config.get("model") or {}).get("name")
    size = run.data.image_size if run.data is not None else None
    what = [f"{model}" if model else "", f"{size} px" if size else "", f"scores of the {PART_NAMES[run.main]}"]
    return "; ".join(filter(None, what))


def curve_section(run: RunFiles) -> Section:
    if not run.lines:
        return Section("Curves", [Text("The run folder has no metrics.jsonl, so there are no curves.")])
    from hpa_ray import figures  # late: it imports matplotlib

    last = run.lines[-1]
    told = {"loss": "train_loss", "validation loss": "val_loss", "macro F1": "macro_f1_tuned"}
    ends = ", ".join(f"{title} {last[name]:.3f}" for title, name in told.items() if name in last)
    caption = (
        "By epoch. Scores of the training part are at threshold 0.5, of images as they were trained on: augmented, and "
        "by a model that was still learning."
    )
    alt = f"Learning curves over {last['epoch']:.0f} epochs; at the end {ends}."
    return Section("Curves", [chart(figures.curves(run.lines), caption, alt=alt)])
