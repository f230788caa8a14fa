"""The answer of a study in plain sentences. Before: answer. After: page, cli."""

from collections.abc import Sequence

from hpa_ray.labels import CLASS_NAMES
from hpa_ray.tune.answer import Answer
from hpa_ray.tune.effects import choice_label
from hpa_ray.tune.finals import Final
from hpa_ray.tune.space import as_words
from hpa_ray.tune.study import finals, searched

SHOWN = 6
"""Choices named in a sentence."""


def in_words(answer: Answer) -> list[str]:
    """Paragraphs of plain sentences: the winner first, then what the search says, then what it took."""
    return [*_finals_in_words(answer), *_effects_in_words(answer), _cost_in_words(answer)]


def _finals_in_words(answer: Answer) -> list[str]:
    number, final, base = answer.winner, answer.final(answer.winner), answer.final(0)
    if number is None:
        return ["There is no answer: no trial has a value."]
    if final is None or (base is None and number):
        best = next((trial for trial in answer.trials if trial.number == number), None)
        settings = f" ({as_words(best.overrides)})" if best is not None and number else ""
        ran = f"Without finals {'of the baseline ' if answer.finals else ''}on the test part"
        several = (
            sum(trial.best(answer.metric, larger=answer.larger) is not None for trial in searched(answer.trials)) > 1
        )
        flattered = (
            " It was chosen as the best of many on this very part, so its value is flattered." if several else ""
        )
        return [
            f"{ran} nothing is proven. The best trial on the validation part is {_name(number)}{settings}.{flattered}"
        ]
    others = [other for other in answer.finals if other.number not in (0, number)]
    if number == 0:
        first = (
            "No setting beats the baseline: repeated with several seeds, it is the best on the validation part itself."
        )
        return [first, *_others_in_words(others)]
    seeds = f"{final.num_seeds} {'seed' if final.num_seeds == 1 else 'seeds'} against {base.num_seeds if base else 0}"
    if all(one.num_seeds == 1 for one in answer.finals):
        seeds += "; the luck of a seed is not in this interval, it is too narrow"
    lines = [_gain_in_words(final, seeds), f"Its settings: {as_words(final.overrides)}."]
    if final.rare is not None and final.overall is not None:
        verdict = "within noise" if final.overall.is_noise else "a gain" if final.overall.value > 0 else "a loss"
        lines.append(f"Over all classes it is {verdict}: {final.overall} macro F1.")
    if told := _classes_in_words(final, answer):
        lines.append(told)
    return [" ".join(lines), *_others_in_words(others)]


def _classes_in_words(final: Final, answer: Answer) -> str:
    pairs = [(k, one.f1_difference) for k, one in enumerate(final.classes) if one.f1_difference is not None]
    clear = sorted(((k, gain) for k, gain in pairs if not gain.is_noise), key=lambda pair: -abs(pair[1].value))
    if not clear:
        return f"Taken one by one, all {len(pairs)} classes are within noise." if pairs else ""
    told = []
    for word, sign in (("higher", 1), ("lower", -1)):
        if some := [(k, gain) for k, gain in clear if gain.value * sign > 0]:
            named = ", ".join(f"{_class(k, answer)} {gain.value:+.3f}" for k, gain in some[:5])
            told.append(f"{word} for {len(some)} ({named}{', ...' if some[5:] else ''})")
    chance = max(round(0.05 * len(pairs)), 1)
    return f"Of {len(pairs)} classes F1 is {' and '.join(told)}; about {chance} would differ so by chance."


def _gain_in_words(final: Final, seeds: str) -> str:
    gain, where = (final.rare, "the rare classes") if final.rare is not None else (final.overall, "all classes")
    if gain is None:
        return f"{_name(final.number, capital=True)} won, but there is no baseline to compare it with."
    missing = "" if final.rare is not None else " No rare class has an image in the test part."
    if gain.is_noise:
        return (
            f"The winner's gain on {where} is within noise: {_name(final.number)} differs from the baseline by {gain} "
            f"macro F1 on the test part, {seeds}.{missing}"
        )
    verb = "beats" if gain.value > 0 else "is worse than"
    return (
        f"{_name(final.number, capital=True)} {verb} the baseline on {where}: {gain} macro F1 on the test part, which "
        f"no searched trial has seen, {seeds}.{missing}"
    )


def _others_in_words(others: Sequence[Final]) -> list[str]:
    told = []
    for other in others:
        gain = other.rare if other.rare is not None else other.overall
        if gain is not None:
            verdict = "within noise" if gain.is_noise else "better than the baseline" if gain.value > 0 else "worse"
            told.append(f"{_name(other.number)} {gain}, {verdict}")
    which = "rare classes" if any(other.rare is not None for other in others) else "all classes"
    return [f"The other finals, macro F1 of {which} against the baseline: {'; '.join(told)}."] if told else []


def _effects_in_words(answer: Answer) -> list[str]:
    judged = [effect for effect in answer.effects if effect.low is not None and effect.difference is not None]
    if not judged:
        return ["There are too few trials to say what a single choice does."]
    after = f"after {answer.grace} {'epoch' if answer.grace == 1 else 'epochs'}"
    clear = sorted((effect for effect in judged if not effect.is_noise), key=lambda e: -abs(e.difference or 0.0))
    dimension_of = {dimension.key: dimension for dimension in answer.space}
    told = []
    for word, helps in (("helped", True), ("hurt", False)):
        if some := [e for e in clear if ((e.difference or 0.0) > 0) == (answer.larger == helps)]:
            words = [
                f"{e.key}={choice_label(dimension_of[e.key], e.choice)} "
                f"{e.difference:+.3f} ({e.low:+.3f} to {e.high:+.3f})"
                for e in some[:SHOWN]
            ]
            told.append(f"What {word}: {'; '.join(words)}{f'; and {len(some) - SHOWN} more' * (len(some) > SHOWN)}.")
    score = f"{answer.metric} {after}, each choice against the mean of its dimension"
    lines = [f"The search, by {score}."] if told else [f"The search: no choice stands out by {score}."]
    if clear and (noise := [d.key for d in answer.space if not any(e.key == d.key for e in clear)]):
        lines.append(f"Within noise: {', '.join(noise)}.")
    if clear:
        chance = max(round(0.05 * len(judged)), 1)
        lines.append(f"{len(clear)} of {len(judged)} choices stand out; about {chance} would by chance.")
    if thin := [f"{e.key}={choice_label(dimension_of[e.key], e.choice)}" for e in answer.effects if e.num_trials < 2]:
        lines.append(
            f"Tried less than twice, so not judged: {', '.join(thin[:SHOWN])}{', ...' if thin[SHOWN:] else ''}."
        )
    return [" ".join(lines), *told]


def _cost_in_words(answer: Answer) -> str:
    runs, cost = searched(answer.trials), answer.cost
    numbers = {status: sum(trial.status == status for trial in runs) for status in ("stopped", "failed", "open")}
    text = f"{len(runs)} trials were searched" if len(runs) != 1 else "1 trial was searched"
    children = [trial for trial in runs if trial.parent is not None]
    if children:
        generations = len({trial.begins for trial in runs})
        text += f" in {generations} generations of {len(runs) // generations}"
    text += f", {numbers['stopped']} of them stopped early" if numbers["stopped"] else ""
    text += f", {numbers['failed']} failed" if numbers["failed"] else ""
    text += f", {numbers['open']} not over yet" if numbers["open"] else ""
    text += f"; {len(finals(answer.trials))} finals. " if finals(answer.trials) else ". "
    text += f"All took {cost.hours:.3g} {cost.unit} hours and {cost.epochs:,} epochs."
    if children:
        moved = sum(trial.overrides != runs[trial.parent or 0].overrides for trial in children)
        text += f" Members went on with changed settings {moved} {'time' if moved == 1 else 'times'}."
    if cost.saved > 0.005:
        text += f" Stopping early spared {cost.saved:.0%} of the epochs of the search."
    return text


def _name(number: int, *, capital: bool = False) -> str:
    text = f"trial {number}" if number else "the baseline"
    return text[0].upper() + text[1:] if capital else text


def _class(k: int, answer: Answer) -> str:
    return f"{CLASS_NAMES[k]}{' (rare)' if answer.rare_K[k] else ''}"
