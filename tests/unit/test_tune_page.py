"""A study in words and as a page: the answer comes first, and what can not be said is not said."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing
from small_study import SPACE, drawn, lines, planted

from hpa_ray.checkpoint.results import all_scores
from hpa_ray.explore.folder import FigureFolder
from hpa_ray.figures import figure_svg
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.page import Figure
from hpa_ray.tune.answer import Answer, find_answer
from hpa_ray.tune.page import study_page
from hpa_ray.tune.study import Trial
from hpa_ray.tune.words import in_words


def whole_study(shift: float, *, num_finals: int = 2, num_seeds: int = 2, reason: str = "no memory") -> dict[str, Any]:
    """Arguments of find_answer, all 28 classes; trial 1 is the one that sees better."""
    rng = np.random.default_rng(0)
    trials = [
        trial._replace(seconds=60.0, lines=lines(*(planted(trial) + rng.normal(0, 0.02) for _ in range(2))))
        for trial in drawn(rng, 16)
    ]
    trials[3] = trials[3]._replace(status="failed", reason=reason, lines=())
    trials[4] = trials[4]._replace(status="stopped", lines=trials[4].lines[:1])
    target_NK = rng.random((200, NUM_CLASSES)) < np.linspace(0.4, 0.05, NUM_CLASSES)
    target_NK[:, 27] = False
    predictions = {}
    for of in range(num_finals):
        for seed in range(num_seeds):
            logit_NK = target_NK * (2.0 + shift * of) - 2.5 + rng.normal(size=target_NK.shape)
            probability_NK = 1 / (1 + np.exp(-logit_NK))
            predictions[of, seed] = (probability_NK >= 0.5, probability_NK)
            test = all_scores(probability_NK, target_NK, probability_NK >= 0.5, np.arange(NUM_CLASSES) > 22)
            curve = lines(0.1 + 0.3 * of, 0.2 + 0.3 * of)
            trials.append(Trial(len(trials), trials[of].overrides, seed, of, "done", lines=curve, test=test))
    return {
        "trials": trials,
        "space": SPACE,
        "metric": "macro_f1_rare_tuned",
        "larger": True,
        "grace": 1,
        "rare_K": np.arange(NUM_CLASSES) > 22,
        "class_ap": {n: np.append(rng.random(NUM_CLASSES - 1), np.nan) for n in range(17)},
        "predictions": predictions,
        "targets_NK": target_NK,
        "unit": "GPU",
    }


def first(**changes: Any) -> str:
    return in_words(find_answer(**whole_study(changes.pop("shift", 3.0)) | changes))[0]


def test_the_first_sentence_is_the_answer() -> None:
    assert first().startswith("Trial 1 beats the baseline on the rare classes: +0.")
    assert first(shift=-3.0).startswith("Trial 1 is worse than the baseline on the rare classes: -0.")
    assert first(shift=0.0).startswith("The winner's gain on the rare classes is within noise: trial 1 differs")
    nothing_rare = first(rare_K=np.arange(NUM_CLASSES) == 27)
    assert nothing_rare.startswith("Trial 1 beats the baseline on all classes")
    assert "No rare class has an image in the test part." in nothing_rare
    assert first(larger=False).startswith("No setting beats the baseline")
    assert first(predictions={}).startswith("Without finals on the test part nothing is proven. The best trial")
    assert first(trials=[]) == "There is no answer: no trial has a value."
    assert first(trials=[Trial(0, {}, 0, status="failed", reason="x")]) == "There is no answer: no trial has a value."


def test_words_hold_the_numbers_of_the_answer() -> None:
    answer = find_answer(**whole_study(3.0))
    text = "\n".join(in_words(answer))
    final = answer.final(1)
    assert final is not None
    assert final.rare is not None
    assert final.overall is not None
    assert str(final.rare) in text
    assert str(final.overall) in text
    assert "17 trials were searched, 1 of them stopped early, 1 failed; 4 finals." in text
    assert "GPU hours" in text
    assert "would by chance" in text
    for effect in answer.effects:
        told = (
            f"{effect.key}={effect.choice} {effect.difference:+.3f}" in text if effect.difference is not None else False
        )
        assert told or effect.is_noise or effect.key == "optim.lr"


def test_one_seed_each_is_said_to_be_too_little() -> None:
    assert "the luck of a seed is not in this interval" in first(**whole_study(3.0, num_seeds=1))
    assert "the luck of a seed" not in first()


class Unwritten(FigureFolder):
    """Figures go into the page only, which is most of the time they take."""

    def chart(self, name: str, figure: Drawing, caption: str) -> Figure:
        self.files.append(name)
        return Figure(figure_svg(figure), caption)


def test_the_page_holds_everything_and_loads_nothing() -> None:
    answer = find_answer(**whole_study(3.0, reason="<script>alert(1)</script>"))
    folder = Unwritten("")
    html = study_page(answer, folder, name="studies/a", command="hpa-ray tune tune.space=<b>")
    assert folder.files == ["finals", "effects", "class_effects", "curves", "parallel"]
    assert html.index(in_words(answer)[0][:60].replace("'", "&#39;")) < html.index('class="cards"')
    assert "<script>alert" not in html
    assert "tune.space=&lt;b&gt;" in html
    assert "hpa-ray train --config best.yaml" in html
    pictures = re.findall(r'<img src="(\w+:)[^"]+" alt="([^"]*)"', html)
    assert len(pictures) == 5
    assert all(kind == "data:" and len(alt) > 20 for kind, alt in pictures)
    assert not re.search(r'(src|href)="(https?:|//)', html)
    assert len(html) < 5e6


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [Trial(0, {}, 0)],
        [Trial(0, {}, 0, status="failed", reason="no memory")],
        [Trial(0, {}, 0, status="done", lines=lines(0.5))],
        [Trial(n, {"loss.name": "asl"} if n else {}, 0, status="done", lines=lines(None)) for n in range(3)],
    ],
    ids=["empty", "not begun", "all failed", "one", "no values"],
)
def test_a_page_of_hardly_anything(trials: list[Trial]) -> None:
    answer: Answer = find_answer(
        trials, SPACE, metric="macro_f1_rare_tuned", larger=True, grace=1, rare_K=np.zeros(NUM_CLASSES, bool)
    )
    html = study_page(answer, Unwritten(""))
    assert "Study of trials" in html
    assert ("no memory" in html) == any(trial.reason for trial in trials)


def test_a_population_says_who_goes_on_from_whom(tmp_path: Path) -> None:
    score = "macro_f1_rare_tuned"
    first = [
        Trial(number, {"loss.name": name} if name else {}, 0, status="done", lines=lines(value), until=1)
        for number, (name, value) in enumerate([("", 0.2), ("asl", 0.5), ("focal", 0.1)])
    ]
    moved = {"loss.name": "asl", "train.stages": "1:loss.name=bce"}
    second = [
        Trial(3 + k, overrides, 0, status="done", lines=lines(0.2, 0.3 + k), parent=parent, begins=1, until=2)
        for k, (parent, overrides) in enumerate([(0, {}), (1, {"loss.name": "asl"}), (1, moved)])
    ]
    found = find_answer([*first, *second], SPACE, metric=score, larger=True, grace=1, rare_K=np.ones(28, bool))
    assert found.cost.epochs == 6
    assert found.cost.saved == 0
    assert sum(effect.num_trials for effect in found.effects if effect.key == "loss.name") == 2
    words = " ".join(in_words(found))
    assert "6 trials were searched in 2 generations of 3" in words
    assert "changed settings 1 time." in words
    page = study_page(found, FigureFolder(str(tmp_path)), name="p", command="c", reproduce=("r",))
    assert page.count("goes on from 1") == 2
    assert "1:loss.name=bce" in page
