"""Configuration files and `key=value` words."""

import typing
from pathlib import Path
from random import Random
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from fuzzing.case import NUMBERS, Case, Target, Wrong, changed_tree, damaged, odd_text, odd_value
from hpa_ray import redact
from hpa_ray.cli.main import Invocation, main
from hpa_ray.cli.setup import resolve
from hpa_ray.config import Config, config_keys, dump_config, load_config
from hpa_ray.config.loader import config_tree

SNIPPETS = (
    *("&a", "*a", "<<: *a", "!!python/object:os.system", "!!binary x", "!!timestamp 2001-99-99", "!!set {a}", "---"),
    *(
        "? [a, b]\n: c",
        "!!omap [a: 1]",
        "- " * 50,
        "[" * 3000,
        "{a: " * 400,
        "a: &x [*x, *x]",
        "%YAML 9.9\n---\n",
        "...",
    ),
    *("\ufeff", "\t", "|\n  text", ">-\n", "'", '"', "1:30:59", "2001-01-01", ".inf", ".nan", "1_000", "0b1", "\x85"),
)


class ConfigFile(Target):
    """A YAML file and `key=value` words."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys = config_keys()

    def make(self, rng: Random) -> Case:
        words = [self._word(rng) for _ in range(rng.choice((0, 0, 1, 2, 5)))]
        tree: dict[str, Any] = {}
        for key in rng.sample(sorted(self.keys), rng.choice((0, 1, 3, 10))):
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = self._value(rng, key)
        kind = rng.randrange(10)
        if kind < 2:
            tree = changed_tree(rng, tree)
        text = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5) if kind < 7 else dump_config(load_config())
        content = text.encode(errors="replace")
        if kind in (3, 7):
            at = rng.randrange(len(text) + 1)
            content = (text[:at] + rng.choice(SNIPPETS) + text[at:]).encode(errors="replace")
        elif kind in (4, 5, 8):
            content = damaged(rng, content)
        elif kind == 6:
            content = rng.choice((b"", rng.randbytes(40), text.encode("utf-16"), b"\xef\xbb\xbf" + content))
        return Case(content, tuple(words))

    def run(self, case: Case) -> None:
        redact._hidden = frozenset()  # what one input wants to be hidden must not be missing from the next
        file = self.write("config.yaml", case.content)
        if len(case.content) % 8 == 0:
            self._show(file, case.words)
        config = load_config(case.words, file=file)
        resolve(Invocation("check", case.words, None, file))
        if len(case.content) % 2:
            self._dump_and_load(config)
        given = {key: value for key, _, value in (word.partition("=") for word in case.words)}
        for key, value in given.items():
            section, _, name = key.partition(".")
            found = getattr(getattr(config, section), name)
            if type(found) is str and self.keys[key].annotation in (str, str | None) and found != value:
                raise Wrong(f"{key} is {found!r}")

    def _dump_and_load(self, config: Config) -> None:
        again = load_config(file=self.write("again.yaml", dump_config(config).encode()))
        before, after = config_tree(config), again.model_dump(mode="json")
        changed = [f"{section}: {before[section]}" for section in before if before[section] != after[section]]
        if changed:
            raise Wrong(f"does not come back from its own dump: {changed}")

    def _show(self, file: str, words: tuple[str, ...]) -> None:
        """As typed on a command line."""
        code = main(["config", "show", "--config", file, "--", *words])
        if code not in (0, 2):
            raise Wrong(f"exit code {code}")

    def _word(self, rng: Random) -> str:
        key = rng.choice(sorted(self.keys)) if rng.random() < 0.97 else odd_text(rng)
        value = str(self._value(rng, key)) if rng.random() < 0.9 else odd_text(rng)
        equals = rng.choice(("=",) * 60 + ("", "==", " = ", ":"))
        return f"{key}{equals}{value}"

    def _value(self, rng: Random, key: str) -> Any:
        field = self.keys.get(key)
        return odd_value(rng) if field is None or rng.random() < 0.05 else likely_value(rng, field)


def likely_value(rng: Random, field: FieldInfo) -> Any:
    """A value that the type of a key takes; it may be out of its bounds."""
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    if typing.get_origin(field.annotation) is typing.Literal:
        return rng.choice(kinds)
    kind = kinds[0]
    if kind is bool:
        return rng.random() < 0.5
    if kind is int:
        return rng.choice((rng.randrange(8, 100), rng.randrange(8, 100), 256, field.default, rng.choice(NUMBERS)))
    if kind is float:
        return rng.choice((rng.random(), rng.random(), rng.random() * 100, 1e-300, field.default, rng.choice(NUMBERS)))
    if isinstance(field.default, tuple):
        return rng.choice(
            (",".join(map(str, field.default)), "red,green", "8, 16 ,32", list(field.default), "rare", "")
        )
    return rng.choice((field.default, field.default, "folder/file.csv", "s3://bucket/x?region=y", odd_text(rng)))
