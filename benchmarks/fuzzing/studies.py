"""Search spaces, and the files in which a study notes its trials."""

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

from fuzzing.case import Case, Target, Wrong, changed_tree, damaged, odd_text, odd_value
from fuzzing.config import SNIPPETS, likely_value
from hpa_ray.config import config_keys, load_config
from hpa_ray.tune import StudyFolder, load_space, with_overrides
from hpa_ray.tune.sampler import suggest

BASE = load_config()
GOOD: list[tuple[str, Any]] = [
    ("loss.name", ["bce", "focal", "soft_f1"]),
    ("loss.weight_on", ["both", "positives"]),
    ("augment.flip", [False, True]),
    ("train.batch_size", {"low": 8, "high": 64, "log": True}),
    ("optim.lr", {"low": 1e-4, "high": 1e-2, "log": True}),
    ("model.dropout", {"low": 0.0, "high": 0.5}),
]


class SpaceFile(Target):
    """A YAML file of what a study varies; what is drawn from it must be settings that there are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys = config_keys()

    def make(self, rng: Random) -> Case:
        tree: dict[Any, Any] = dict(rng.sample(GOOD, rng.randrange(1, len(GOOD))))
        if rng.random() < 0.6:
            for key in rng.sample(sorted(self.keys), rng.choice((1, 1, 2, 5))):
                tree[key] = self._dimension(rng, key, list(tree))
        kind = rng.randrange(8)
        if kind == 0:
            tree = changed_tree(rng, tree)
        text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
        if kind == 1:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(SNIPPETS) + text[at:]
        content = text.encode(errors="replace")
        return Case(damaged(rng, content) if kind == 2 else content)

    def run(self, case: Case) -> None:
        space = load_space(self.write("space.yaml", case.content), BASE)
        for number in range(3):
            overrides = suggest(space, [], BASE, sampler="random", seed=0, number=number)
            if overrides is not None:
                with_overrides(BASE, overrides)
                if not overrides.keys() <= {dimension.key for dimension in space}:
                    raise Wrong(f"suggests {overrides}")

    def _dimension(self, rng: Random, key: str, earlier: list[Any]) -> Any:
        values = [likely_value(rng, self.keys[key]) for _ in range(rng.choice((0, 1, 2, 3)))]
        shape = rng.randrange(5)
        if shape == 0:
            return odd_value(rng)
        if shape == 1:
            return values
        when = {rng.choice([*earlier, odd_text(rng)]): rng.choice((odd_value(rng), values))}
        if shape == 2:
            return {"choices": values, "when": when}
        low, high = rng.choice(((0.1, 0.9), (1, 8), (9, 10), (odd_value(rng), odd_value(rng))))
        return {"low": low, "high": high, "log": rng.choice((True, False, odd_value(rng)))} | (
            {"when": when} if rng.random() < 0.2 else {}
        )


class TrialFiles(Target):
    """`trial.json`, `outcome.json` and `metrics.jsonl` of a trial, behind one that is right."""

    def make(self, rng: Random) -> Case:
        trial: Any = {"overrides": {"loss.name": "focal"}, "seed": rng.randrange(9), "final_of": rng.choice((None, 0))}
        if rng.random() < 0.5:
            trial |= {"parent": rng.choice((None, 0, 0, 0, 1, -1)), "begins": rng.choice((0, 1)), "until": 2}
        outcome: Any = {"status": "done", "reason": "", "seconds": 1.5, "test": rng.choice((None, {"map": 0.5}))}
        line: Any = {"epoch": 1, "map": 0.5, "wall_s": 2.0}
        files = [trial, outcome, line]
        which = rng.randrange(3)
        files[which] = changed_tree(rng, files[which])
        texts = [json.dumps(value).encode() for value in files]
        if rng.random() < 0.5:
            texts[which] = damaged(rng, texts[which])
        return Case(b"", (), texts)

    def run(self, case: Case) -> None:
        good = (b'{"overrides": {}, "seed": 0, "final_of": null}', b"", b'{"epoch": 1, "map": 0.5, "wall_s": 2.0}')
        for number, contents in ((0, good), (1, case.known)):
            folder = self.folder / "trials" / f"{number:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in zip(("trial.json", "outcome.json", "metrics.jsonl"), contents, strict=True):
                if content or number:
                    (folder / name).write_bytes(content)
        for trial in StudyFolder(str(self.folder)).trials():
            if trial.parent is not None and not 0 <= trial.parent < trial.number:
                raise Wrong(f"trial {trial.number} of parent {trial.parent}")
            _ = trial.epochs, trial.own_epochs, trial.own_s, trial.best("map", larger=True), trial.is_over
            json.dumps(trial)
