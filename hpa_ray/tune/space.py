"""What a study varies: a YAML file of dotted keys -> dimensions. Before: config. After: sampler, study.

loss.name: [bce, focal, asl]                          # choices
optim.lr: {low: 1.0e-4, high: 3.0e-3, log: true}      # a range; of whole numbers where both ends are
loss.focal_gamma: {choices: [1, 2, 4], when: {loss.name: focal}}    # only where it does something
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hpa_ray.config import Config, config_keys, load_config
from hpa_ray.config.loader import yaml_reason
from hpa_ray.errors import InputError
from hpa_ray.progress import one_line
from hpa_ray.storage import is_local, read_bytes

SPACES = Path(__file__).parent / "spaces"
RANGE_KEYS = {"low", "high", "log", "when"}
SECTIONS = ("model", "loss", "sampling", "augment", "optim", "train", "data")
FIXED = (
    *("train.num_workers", "train.resources", "train.use_gpu", "train.select", "train.stop_epoch", "train.stages"),
    *("data.shards", "data.images"),
)
MAX_COMBINATIONS = 100_000

Overrides = dict[str, Any]
"""Dotted key -> value, of a trial; keys that its other values make meaningless are not in it."""


class Dimension(NamedTuple):
    key: str
    choices: tuple[Any, ...] = ()
    """Empty: a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """Keys of earlier dimensions and the values of theirs with which this one is there."""

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def is_active(self, overrides: Overrides) -> bool:
        return all(key in overrides and overrides[key] in values for key, values in self.when)

    def ends(self) -> tuple[Any, ...]:
        """Values to check: all choices, or the ends of the range."""
        return self.choices or (self.low, self.high)


Space = tuple[Dimension, ...]


def space_names() -> list[str]:
    return sorted(path.stem for path in SPACES.glob("*.yaml"))


def load_space(name: str, base: Config) -> Space:
    """A packaged space by name, or a YAML file. Raises InputError with all that is wrong in it."""
    path = str(SPACES / f"{name}.yaml") if name in space_names() else name
    if path == name and not name.endswith((".yaml", ".yml")):
        raise InputError(
            f"tune.space = {name}: no such space - there are {', '.join(space_names())}, or give a YAML file"
        )
    try:
        tree = yaml.safe_load(read_bytes(path))
    except FileNotFoundError:
        raise InputError(f"tune.space = {name}: no such file - packaged are {', '.join(space_names())}") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        reason = yaml_reason(error)[:150]
        raise InputError(f"tune.space = {name}: not valid YAML ({reason}) - see `hpa-ray tune --help`") from error
    except IsADirectoryError:
        raise InputError(f"tune.space = {name}: a folder - give a YAML file") from None
    if not isinstance(tree, dict) or not tree:
        raise InputError(f"tune.space = {name}: holds no keys - write such as `loss.name: [bce, focal]`")
    return parse_space(tree, base, where="" if path != name and is_local(path) else f"{name}: ")


def parse_space(tree: Mapping[Any, Any], base: Config, *, where: str = "") -> Space:
    """Dimensions of a mapping as in the file. Raises InputError with all that is wrong in it."""
    problems: list[str] = []
    known = config_keys()
    dimensions: dict[str, Dimension] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or key not in known or key.split(".")[0] not in SECTIONS or key in FIXED:
            problems.append(f"{where}{key!s:.100}: no key that can be searched - `hpa-ray config keys` lists all keys")
            continue
        try:
            dimension = _dimension(key, value, dimensions)
        except ValueError as error:
            problems.append(f"{where}{key}: {error}")
            continue
        for end in dimension.ends():
            try:
                with_overrides(base, {key: end})
            except InputError as error:
                problems += [f"{where}{problem}" for problem in error.problems]
        dimensions[key] = dimension
    if problems:
        raise InputError(*map(one_line, problems))
    return tuple(dimensions.values())


def with_overrides(base: Config, overrides: Overrides) -> Config:
    """Raises InputError for values that a key can not have."""
    return load_config([f"{key}={as_word(value)}" for key, value in overrides.items()], base=base)


def combinations(space: Space) -> list[Overrides]:
    """All of them, the first dimension slowest. Raises InputError if a dimension is a range, or they are too many."""
    _no_ranges(space, "grid")
    if (number := math.prod(len(dimension.choices) for dimension in space)) > MAX_COMBINATIONS:
        raise InputError(f"tune.sampler = grid: {number:,} combinations - take keys or choices out, or sample them")
    found: dict[tuple[Any, ...], Overrides] = {}
    for values in itertools.product(*(dimension.choices for dimension in space)):
        overrides: Overrides = {}
        for dimension, value in zip(space, values, strict=True):
            if dimension.is_active(overrides):
                overrides[dimension.key] = value
        found.setdefault(tuple(overrides.items()), overrides)
    return list(found.values())


def single_changes(space: Space, base: Config) -> list[Overrides]:
    """Every choice by itself, the others left as they are; a conditional one with the first value it needs.

    Raises InputError if a dimension is a range.
    """
    _no_ranges(space, "one_factor")
    found: list[Overrides] = []
    for dimension in space:
        needed = {key: values[0] for key, values in dimension.when}
        section, _, name = dimension.key.partition(".")
        unchanged = getattr(getattr(base, section), name)
        changes = [choice for choice in dimension.choices if choice != unchanged]
        found += [overrides for choice in changes if (overrides := {**needed, dimension.key: choice}) not in found]
    return found


def _no_ranges(space: Space, sampler: str) -> None:
    if ranges := [dimension.key for dimension in space if not dimension.choices]:
        raise InputError(f"tune.sampler = {sampler}: {', '.join(ranges)} are ranges - give choices, or another sampler")


def _dimension(key: str, value: Any, earlier: Mapping[str, Dimension]) -> Dimension:
    """Raises ValueError."""
    if isinstance(value, list):
        return Dimension(key, _choices(value))
    if not isinstance(value, dict):
        raise ValueError("write choices as [a, b], or a range as {low: 1, high: 2}")
    when = tuple(_conditions(value.get("when", {}), earlier))
    if "choices" in value and value.keys() <= {"choices", "when"}:
        return Dimension(key, _choices(value["choices"]), when=when)
    if not {"low", "high"} <= value.keys() <= RANGE_KEYS:
        raise ValueError(f"a range has {', '.join(sorted(RANGE_KEYS))}, choices have choices, when")
    low, high, log = value["low"], value["high"], value.get("log", False)
    if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high)):
        raise ValueError("low and high are numbers (YAML wants 1.0e-4 rather than 1e-4)")
    if not low < high or (log and low <= 0) or not isinstance(log, bool):
        raise ValueError("low is below high, and above 0 where log: true")
    return Dimension(key, low=low, high=high, log=log, when=when)


def _choices(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or len(values) < 2 or len({repr(value) for value in values}) < len(values):
        raise ValueError("choices are a list of two or more different values")
    if not all(isinstance(value, (str, int, float, bool)) for value in values):
        raise ValueError("choices are words, numbers, true or false")
    return tuple(values)


def _conditions(when: Any, earlier: Mapping[str, Dimension]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if not isinstance(when, dict):
        raise ValueError("when holds keys and values, as in {loss.name: focal}")
    for key, wanted in when.items():
        values = tuple(wanted) if isinstance(wanted, list) else (wanted,)
        if key not in earlier or any(value not in earlier[key].choices for value in values):
            raise ValueError(f"when: {key!s:.100} is no earlier key with these choices")
        yield key, values


def as_word(value: Any) -> str:
    """As it is written after `key=`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_value(word: str) -> str | bool | int | float:
    """What `as_word` made a word of."""
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(word)
    return word


def as_words(overrides: Overrides) -> str:
    """For people: `loss.name=focal optim.lr=0.00123`."""
    words = [
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={as_word(value)}"
        for key, value in overrides.items()
    ]
    return " ".join(words) or "nothing changed"
