"""The answer of a study -> study.html. Before: words, page_finals, page_effects, page_trials. After: cli."""

from collections.abc import Sequence

from hpa_ray.explore.folder import FigureFolder
from hpa_ray.page import Block, Card, Cards, Code, Problems, Section, Text, render_page
from hpa_ray.tune.answer import Answer
from hpa_ray.tune.finals import Difference
from hpa_ray.tune.page_effects import effects_blocks
from hpa_ray.tune.page_finals import finals_blocks
from hpa_ray.tune.page_parts import DIFFERENCE
from hpa_ray.tune.page_trials import space_table, trials_blocks
from hpa_ray.tune.space import as_words
from hpa_ray.tune.study import Trial, searched
from hpa_ray.tune.words import in_words


def study_page(
    answer: Answer,
    folder: FigureFolder,
    *,
    name: str = "",
    command: str = "",
    reproduce: Sequence[str] = ("hpa-ray train --config best.yaml",),
) -> str:
    """The page as text; writes the figures into `folder`. Importing matplotlib is left to this call.

    name: of the study; command: that which made it; reproduce: lines to type for a model like the winner.
    """
    words = in_words(answer)
    sections = [Section("Answer", [Text(words[0]), _cards(answer), Text("\n\n".join(words[1:]))])]
    if answer.finals:
        sections.append(Section("Finals", finals_blocks(answer, folder)))
    sections.append(Section("What the choices do", effects_blocks(answer, folder)))
    sections.append(Section("Trials", trials_blocks(answer, folder)))
    failed = [trial for trial in answer.trials if trial.status == "failed"]
    lines = [f"trial {trial.number}: {trial.reason} ({as_words(trial.overrides)})" for trial in failed]
    sections.append(Section("Failures", [Problems(lines, level="error", none="No trial failed.")]))
    sections.append(Section("What was searched", [space_table(answer)]))
    again: list[Block] = []
    if command:
        again += [Text("This study:"), Code(command)]
    if answer.winner is not None and reproduce:
        what = "The winner" if answer.winner else "The baseline, which nothing beat"
        again += [Text(f"{what}, trained again:"), Code("\n".join(reproduce))]
    if again:
        sections.append(Section("Do it again", again))
    return render_page("Study of trials", sections, subtitle=name)


def _cards(answer: Answer) -> Cards:
    runs = searched(answer.trials)
    count = {status: sum(trial.status == status for trial in runs) for status in ("done", "stopped", "failed", "open")}
    what = [f"{number} {status}" for status, number in count.items() if number or status in ("done", "stopped")]
    cards = [Card("searched trials", len(runs), ", ".join(what))]
    best, final = _best(answer), answer.final(answer.winner)
    if best is not None:
        value = best.best(answer.metric, larger=answer.larger)
        title = f"best {answer.metric}, validation"
        cards.append(Card(title, f"{value:.3f}", f"trial {best.number}; flattered, as best of many"))
    if final is not None and final.number:
        for title, gain in (("gain on rare classes", final.rare), ("gain on all classes", final.overall)):
            if gain is not None:
                noise = "within noise" if gain.is_noise else "outside noise"
                note = f"{_range(gain)}, {noise}; macro F1, test part, trial {final.number}"
                cards.append(Card(title, f"{gain.value:{DIFFERENCE}}", note))
    elif final is not None:
        cards.append(Card("gain", "none", "the baseline is best on the validation part"))
    spared = f"; {answer.cost.saved:.0%} spared by stopping" if answer.cost.saved > 0.005 else ""
    cost = answer.cost
    cards.append(Card(f"{cost.unit} hours", f"{cost.hours:,.3g}", f"{cost.epochs:,} epochs{spared}"))
    return Cards(cards)


def _best(answer: Answer) -> Trial | None:
    sign = 1 if answer.larger else -1
    known = [(sign * value, trial) for trial, value in _reached(answer)]
    return max(known, key=lambda pair: (pair[0], -pair[1].number))[1] if known else None


def _reached(answer: Answer) -> list[tuple[Trial, float]]:
    """Searched trials that did not fail, with the best value of each."""
    found = []
    for trial in searched(answer.trials):
        value = trial.best(answer.metric, larger=answer.larger)
        if trial.status != "failed" and value is not None:
            found.append((trial, value))
    return found


def _range(gain: Difference) -> str:
    return f"{gain.low:{DIFFERENCE}} to {gain.high:{DIFFERENCE}}"
