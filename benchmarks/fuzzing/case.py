"""One input, what is done with it, and the damages that any bytes can have."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from hpa_ray.errors import InputError

MAX_TOLD = 1000
"""Characters of one line that a user is told."""
BYTES = (0, 1, 2, 9, 10, 13, 32, 34, 39, 44, 47, 60, 92, 127, 128, 254, 255)
NUMBERS = (0, 1, -1, 2, 7, 8, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63, 2**64)
TEXTS = (
    *("", " ", "null", "none", "~", "true", "nan", "inf", "-1", "0x10", "1e999", "é", "日本", "\u202e", "\ufeff"),
    *("\x1b[2J", "\x1b]0;x\x07", "\0", "\r", "\n", "a\nb", "\t", "\x7f", "\x85", "\u2028", "\udcff", "\U0001f9ec"),
    *("../up", "..", ".", "/etc/passwd", "a/b", "a\\b", "~/x", "~root", "C:\\x", "file:///x", "s3://b/x", "-rf", "--"),
    *("$(reboot)", "`id`", "; ls", "a|b", "*", "$HOME", "%s%n", "{0}", "{x.__class__}", "a'b", 'a"b', "a,b", "a;b"),
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;", "&", "'><b>", "[bold]x[/bold]", "x" * 300),
    *(
        "x" * 70000,
        "=",
        "a=b",
        "=a",
        "CON",
        ".hidden",
        "a_red.png",
        "a.csv",
        "\u0661" * 20,
        "9" * 5000,
        "a\u0301",
        "\ufb01",
    ),
)
"""What has troubled one program or another."""


class Case(NamedTuple):
    """An input: what stands in the file, what else is typed, and what the check of the result needs to know."""

    content: bytes
    words: tuple[str, ...] = ()
    known: Any = None


class Wrong(Exception):
    """The program went on with something that it should have refused, or told the user something unreadable."""


class Target(ABC):
    """A function that reads what a user gives. Everything is made in `folder`, which is this process's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def make(self, rng: Random) -> Case:
        """An input that only the random numbers decide."""

    @abstractmethod
    def run(self, case: Case) -> None:
        """Raises InputError if the input is refused, Wrong if it is accepted and the result is not right."""

    def accepts(self, case: Case) -> bool:
        """Whether the input is taken. Raises Wrong, or whatever the program should not have raised."""
        try:
            self.run(case)
        except InputError as error:
            check_told(error.problems)
            return False
        return True

    def write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)


def check_told(lines: tuple[str, ...]) -> None:
    if not lines:
        raise Wrong("refused without a reason")
    for line in lines:
        if not line.isprintable() or len(line) > MAX_TOLD or not line.strip():
            raise Wrong(f"told in {len(line)} characters: {line[:300]!r}")


def odd_text(rng: Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(TEXTS)
    return "".join(
        chr(rng.choice((rng.randrange(128), rng.randrange(0x250), rng.randrange(0x11000)))) for _ in range(8)
    )


def damaged(rng: Random, content: bytes) -> bytes:
    """One to four damages of any kind, most of them near the beginning, where headers are."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(DAMAGES)(rng, data)
    return bytes(data)


def place(rng: Random, data: bytearray) -> int:
    return int(len(data) * rng.random() ** rng.choice((1, 3)))


def _flip(rng: Random, data: bytearray) -> None:
    if data:
        data[place(rng, data)] ^= 1 << rng.randrange(8)


def _set(rng: Random, data: bytearray) -> None:
    if data:
        data[place(rng, data)] = rng.choice(BYTES)


def _number(rng: Random, data: bytearray) -> None:
    at, size = place(rng, data), rng.choice((2, 4, 8))
    order = "little" if rng.random() < 0.5 else "big"
    data[at : at + size] = (rng.choice(NUMBERS) % 256**size).to_bytes(size, order)


def _cut(rng: Random, data: bytearray) -> None:
    del data[place(rng, data) :]


def _delete(rng: Random, data: bytearray) -> None:
    at = place(rng, data)
    del data[at : at + rng.choice((1, 1, 4, 40))]


def _insert(rng: Random, data: bytearray) -> None:
    at = place(rng, data)
    data[at:at] = rng.choice((rng.randbytes(rng.choice((1, 4, 40))), odd_text(rng).encode(errors="replace")[:400]))


def _repeat(rng: Random, data: bytearray) -> None:
    at, size = place(rng, data), rng.choice((1, 4, 40, 400))
    data[at:at] = data[at : at + size] * rng.choice((1, 1, 50))


def _copy(rng: Random, data: bytearray) -> None:
    at, size, source = place(rng, data), rng.choice((1, 4, 40)), place(rng, data)
    data[at : at + size] = data[source : source + size]


def _clear(rng: Random, data: bytearray) -> None:
    at, size = place(rng, data), min(rng.choice((4, 40, 400)), len(data))
    data[at : at + size] = bytes([rng.choice((0, 255))]) * len(data[at : at + size])


DAMAGES: tuple[Callable[[Random, bytearray], None], ...] = (
    *(_flip, _flip, _set, _number, _cut, _delete, _insert, _repeat, _copy, _clear),
)


def odd_value(rng: Random) -> Any:
    """Anything that JSON or YAML can say."""
    return rng.choice(
        (
            *(None, True, False, [], {}, [[]], {"a": 1}, [1, 2], rng.random(), -rng.random(), 1e308, -1e-308),
            *(rng.choice(NUMBERS), rng.choice(NUMBERS), rng.randrange(100), odd_text(rng), odd_text(rng)),
        )
    )


def changed_tree(rng: Random, tree: Any) -> Any:
    """A copy of a JSON value in which something, at any depth, is another value, gone, moved or there twice."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder: Any = [tree]
        key: Any = 0
        while isinstance(holder[key], (dict, list)) and holder[key] and (rng.random() < 0.8 or holder[key] is tree):
            holder = holder[key]
            key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        if holder == [tree]:
            continue
        action = rng.randrange(6)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[odd_text(rng)] = holder.pop(key)
        elif action == 1:
            holder.insert(key, holder[key])
        elif action == 2 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = rng.choice((holder[key] + 1, holder[key] - 1, holder[key] * 2, *NUMBERS))
        elif action == 2 and isinstance(holder[key], str):
            holder[key] = damaged(rng, holder[key].encode(errors="replace")).decode(errors="replace")
        else:
            holder[key] = odd_value(rng)
    return tree
