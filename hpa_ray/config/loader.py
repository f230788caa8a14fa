"""YAML file or packaged recipe + `key=value` overrides -> one frozen Config; every mistake is told at once.

The same flat table of keys serves `config keys`, the suggestions and (as dotted paths) a search over them.
"""

import difflib
import reprlib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hpa_ray.config.sections import RECIPES, Config
from hpa_ray.errors import InputError
from hpa_ray.progress import one_line
from hpa_ray.redact import HIDDEN, redacted
from hpa_ray.storage import read_bytes

CREDENTIALS = ("access_key", "secret_key", "session_token")


class Setting(NamedTuple):
    key: str
    value: Any
    source: str


def config_keys(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, FieldInfo]:
    """Every dotted key with its pydantic field, in the order of declaration."""
    table: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            table |= config_keys(field.annotation, f"{prefix}{name}.")
        else:
            table[prefix + name] = field
    return table


def load_config(
    overrides: Sequence[str] = (), *, recipe: str | None = None, file: str | None = None, base: Config | None = None
) -> Config:
    """The configuration of a run: `base` or the defaults, then the recipe or the YAML file, then `key=value` words.

    Raises InputError with one line per mistake, each with where it was made.
    """
    problems: list[str] = []
    settings: list[Setting] = []
    if recipe is not None:
        if recipe not in recipe_names():
            raise InputError(f"--recipe {recipe:.60}: no such recipe - there are: {', '.join(recipe_names())}")
        settings += _from_yaml((RECIPES / f"{recipe}.yaml").read_text(), f"recipe {recipe}", problems)
    if file is not None:
        try:
            text = read_bytes(file).decode()
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no name that a file can have
            raise InputError(f"--config {file}: cannot be read ({error})") from error
        settings += _from_yaml(text, file, problems)
    settings += _from_words(overrides, problems)

    known = config_keys()
    for setting in settings:
        if setting.key in Config.model_fields:
            problems.append(f"{setting.source}: '{setting.key}' is a section - write {setting.key}.KEY=VALUE")
        elif setting.key not in known:
            problems.append(f"{setting.source}: unknown key '{setting.key:.60}'{_suggest(setting.key, known)}")
    good = [setting for setting in settings if setting.key in known]
    config, wrong = _validate(base or Config(), good)
    if problems or wrong or config is None:
        raise InputError(*map(one_line, [*problems, *wrong]))
    return config


def dump_config(config: Config) -> str:
    """The configuration as YAML that `--config` reads back, but for credentials and signatures, which are left out."""
    return yaml.safe_dump(config_tree(config), sort_keys=False)


def config_tree(config: Config) -> dict[str, Any]:
    """The same as plain values."""
    tree: dict[str, Any] = redacted(config.model_dump(mode="json"))
    tree["storage"] |= dict.fromkeys(CREDENTIALS)
    return tree


def without_credentials(words: Sequence[str]) -> list[str]:
    """Words of a command line, for a file that others may read."""
    secret = tuple(f"storage.{name}=" for name in CREDENTIALS)
    return [f"{word.partition('=')[0]}={HIDDEN}" if word.startswith(secret) else word for word in words]


def type_name(field: FieldInfo) -> str:
    """The type of a key in words: `int`, `adam | adamw`, `str or unset`."""
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    if typing.get_origin(field.annotation) is tuple:
        return "words"
    if typing.get_origin(field.annotation) is typing.Literal:
        return " | ".join(kinds)
    names = [kind.__name__ for kind in kinds if kind is not type(None)]
    return " ".join(names) + (" or unset" if type(None) in kinds else "")


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _from_words(words: Sequence[str], problems: list[str]) -> list[Setting]:
    settings = []
    for before, word in zip(("", *words), words, strict=False):
        key, equals, value = word.partition("=")
        if not equals:
            told = HIDDEN if before.removeprefix("storage.") in CREDENTIALS else f"'{word:.200}'"
            problems.append(f"command line: {told} - write it as key=value")
        else:
            settings.append(Setting(key, None if _is_unset(key, value) else value, "command line"))
    return settings


def _is_unset(key: str, value: str) -> bool:
    field = config_keys().get(key)
    names = typing.get_args(field.annotation) if field is not None else ()
    return value in ("", "null", "none") and value not in names


def _from_yaml(text: str, source: str, problems: list[str]) -> list[Setting]:
    try:
        tree = yaml.safe_load(text)
    # a value that contradicts its tag (2001-99-99, !!bool x) raises whatever its conversion raised
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        problems.append(f"{source}: not valid YAML - {yaml_reason(error)}")
        return []
    if not isinstance(tree, (Mapping, type(None))):
        found = "a list" if isinstance(tree, list) else "one value"
        problems.append(f"{source}: expected sections of keys such as 'train: {{epochs: 3}}', found {found}")
        return []
    return list(_flatten(tree or {}, source))


def yaml_reason(error: Exception) -> str:
    """Without the line in question, which may hold a key."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem or error.context} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())


def _flatten(tree: Mapping[Any, Any], source: str, prefix: str = "", depth: int = 0) -> Iterator[Setting]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value and depth < 2:  # a key has two words; an alias may hold itself
            yield from _flatten(value, source, f"{prefix}{name}.", depth + 1)
        elif value != {}:
            yield Setting(f"{prefix}{name}", value, source)


def _suggest(key: str, known: Mapping[str, Any]) -> str:
    if len(key) > 100:  # comparing takes the square of the length
        return " - `hpa-ray config keys` lists them"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:  # the right last word in another section: 'batch_size'
        close = [other for other in known if other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    return f" - did you mean '{close[0]}'?" if close else " - `hpa-ray config keys` lists them"


def _validate(base: Config, settings: Sequence[Setting]) -> tuple[Config | None, list[str]]:
    tree = base.model_dump()
    last: dict[str, Setting] = {}
    for setting in settings:
        section, name = setting.key.split(".")
        tree[section][name] = setting.value
        last[setting.key] = setting
    try:
        return Config.model_validate(tree), []
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            key = ".".join(str(part) for part in detail["loc"][:2])
            source = last[key].source if key in last else "default"
            reason = detail["msg"].removeprefix("Value error, ")
            value = "..." if key.removeprefix("storage.") in CREDENTIALS else _shown(detail["input"])
            problems.append(f"{source}: {key} = {value} - {reason[0].lower()}{reason[1:]}")
        return None, problems


def _shown(value: Any) -> str:
    """A value as it was given, but never a screenful of it."""
    if isinstance(value, tuple):
        return repr(",".join(map(str, value)))[:100]
    return (repr(value) if isinstance(value, (str, int, float)) else reprlib.repr(value))[:100]
