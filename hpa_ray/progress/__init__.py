"""What the user sees while work is done: lines, and a live bar on a terminal or a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from hpa_ray.redact import redact

PLAIN_EVERY_S = 10.0
Rows = Sequence[Sequence[str]]


def one_line(text: str) -> str:
    """Names and cells of a user's files must not move the cursor, start new lines or be impossible to print."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _shown(text: str) -> str:
    return one_line(redact(text))


class Console:
    """Lines to standard output and, once a log is attached, into it too."""

    def __init__(self) -> None:
        self._log: list[str] | None = None
        self._live: Any = None

    def say(self, text: str = "") -> None:
        """Print one line, whatever names and cells of the user's files are in it; secrets are left out."""
        text = _shown(text)
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)
        if self._log is not None:
            self._log.append(text)

    @contextmanager
    def logging(self) -> Iterator[list[str]]:
        """Collect the lines said from here on."""
        self._log = []
        try:
            yield self._log
        finally:
            self._log = None

    @contextmanager
    def progress(self, stage: str, total: int, unit: str = "images") -> "Iterator[Progress]":
        """Show how far a stage is; call the result with what is done so far."""
        if not sys.stdout.isatty():
            yield PlainProgress(self, stage, total, unit)
            return
        from hpa_ray.progress.live import LiveProgress  # rich takes a tenth of a second

        with LiveProgress(stage, total) as live:

            def show(done: int, note: str = "", total: int | None = None, rows: Rows = ()) -> None:
                live.show(done, _shown(note), total, [[_shown(cell) for cell in row] for row in rows])

            self._live = live
            try:
                yield show
            finally:
                self._live = None


class Progress(Protocol):
    def __call__(self, done: int, note: str = "", total: int | None = None, rows: Rows = ()) -> None:
        """What is done so far; total, where it was not known before; rows, the first of titles: a live table."""
        ...


class PlainProgress:
    """A line when PLAIN_EVERY_S have passed since the last one, for job logs and pipes; no table."""

    def __init__(self, console: Console, stage: str, total: int, unit: str) -> None:
        self.console, self.stage, self.total, self.unit = console, stage, total, unit
        self.start = self.last = time.monotonic()
        self.first_done: int | None = None

    def __call__(self, done: int, note: str = "", total: int | None = None, rows: Rows = ()) -> None:
        now = time.monotonic()
        self.total = self.total if total is None else total
        if self.first_done is None:
            self.first_done = done  # what an earlier run had done is no speed of this one
        if now - self.last < PLAIN_EVERY_S:
            return
        self.last = now
        rate = (done - self.first_done) / (now - self.start)
        speed = f", {rate:.0f}/s" if rate >= 1 else f", {60 * rate:.1f}/min" if rate else ""
        left = f", {(self.total - done) / rate:.0f} s left" if rate else ""
        note = f", {note}" if note else ""
        self.console.say(f"{self.stage}: {done:,} of {self.total:,} {self.unit}{speed}{left}{note}")


console = Console()
"""The one screen of this process."""
