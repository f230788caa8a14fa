"""The live part of a terminal's screen: a bar, and above it a table where there is one. After: progress.

Of its own, as what it is made with takes a tenth of a second to import and most programs write to a log.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text


class LiveProgress(Bar):
    """Lines printed on its console scroll by above it; it is gone when it ends."""

    def __init__(self, stage: str, total: int) -> None:
        self._table: Table | None = None
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        super().__init__(*columns, TextColumn("{task.fields[note]}", markup=False), transient=True)
        self._stage = self.add_task(stage, total=total, note="")

    def get_renderables(self) -> Iterable[Any]:
        if self._table is not None:
            yield self._table
        yield from super().get_renderables()

    def show(self, done: int, note: str, total: int | None, rows: Sequence[Sequence[str]]) -> None:
        self._table = _table(rows) if rows else None
        self.update(self._stage, completed=done, note=note, total=total)


def _table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in rows[0]:
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table
