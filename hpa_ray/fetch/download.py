"""Chosen images -> a folder of their files with labels.csv, by Ray Data tasks. Before: fetch/folder, fetch/unit."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hpa_ray.channels import STAINS
from hpa_ray.errors import InputError
from hpa_ray.fetch.address import Address
from hpa_ray.fetch.choose import Choice
from hpa_ray.fetch.folder import Standing, Summary, begin, finish
from hpa_ray.fetch.line import Line, Manners
from hpa_ray.fetch.unit import KEY, MAX_REFUSALS, REFUSED, UNAVAILABLE, Failure, Unit, UnitTask, Wanted
from hpa_ray.ingest.tasks import run_tasks
from hpa_ray.manifest import LabelTable
from hpa_ray.output import disk_full_told

WORKERS = 2
UNIT_S = 10.0
"""A unit is as many images as a task gets in about this time, so that the progress moves."""
MAX_UNIT_IMAGES = 8
UNITS_PER_ROUND = 512
"""Ray Data plans all its tasks before the first: a few hundred at once start within a second, 20,000 do not."""
MAX_ALIKE = 8
"""Images in a row that fail for one reason, after which something is wrong with more than these images."""


def download(
    choice: Choice,
    standing: Standing,
    *,
    labels: LabelTable,
    output: str,
    address: Address,
    manners: Manners,
    settings: dict[str, Any],
    num_workers: int | None = None,
    on_progress: Callable[[int, str], None] = lambda done, note: None,
) -> Summary:
    """Download what is not there yet; the same call goes on where it was stopped. on_progress(images done, note).

    standing: what `look` has found in the folder. settings go into fetch.json. num_workers: Ray Data tasks at a time,
    None for two, 0 for threads of this process. Raises InputError for a disk that is too small, and a server that
    refuses us or does not have what the pattern asks for.
    """
    num_tasks = WORKERS if num_workers is None else num_workers
    units = list(_units(standing.missing, manners.requests_per_s / max(num_tasks, 1)))
    task = UnitTask(output, address, units, manners, shares=num_tasks, run=standing.run)
    done, num_bytes, retries = standing.num_images - len(standing.missing), 0, standing.retries.copy()
    failures: dict[str, Failure] = {}
    with disk_full_told(KEY, output), _line(task if num_tasks == 0 else None) as stop:
        guard = _Guard(standing.num_complete, stop)
        begin(output, standing, settings)
        on_progress(done, "")
        for unit in _run(task, len(units), num_tasks):
            failures |= {failure.image_id: failure for failure in unit.failures}
            retries.update(unit.retries)
            done += len(unit.complete) + len(unit.failures)
            num_bytes += unit.num_bytes
            on_progress(done, f"{num_bytes / 2**20:,.1f} MiB, {retries.total():,} repeats, {len(failures):,} left out")
            guard.judge(unit)
        rejects = [*standing.unavailable.values(), *(failure.as_reject() for failure in failures.values())]
        return finish(output, choice, labels, settings, rejects, retries)


def _units(missing: list[Wanted], requests_per_s: float) -> Iterator[list[Wanted]]:
    size = max(1, min(MAX_UNIT_IMAGES, round(UNIT_S * requests_per_s / len(STAINS))))
    for start in range(0, len(missing), size):
        yield missing[start : start + size]


def _run(task: UnitTask, num_units: int, num_tasks: int) -> Iterator[Unit]:
    for start in range(0, num_units, UNITS_PER_ROUND):
        numbers = range(start, min(start + UNITS_PER_ROUND, num_units))
        for result in run_tasks(task, numbers, num_workers=num_tasks):
            unit = Unit(**result)
            yield unit._replace(failures=[Failure(*values) for values in unit.failures])


@contextmanager
def _line(task: UnitTask | None) -> Iterator[Callable[[], None]]:
    """The line that threads of this process share, and a call that ends their waiting; Ctrl-C ends it too.

    Without it, the pool of threads would first be waited for, and they for their turns and pauses.
    """
    if task is None:
        yield lambda: None
        return
    line: Line = task.open_shared_line()
    before = signal.getsignal(signal.SIGINT)
    catching = threading.current_thread() is threading.main_thread() and callable(before)

    def interrupt(number: int, frame: Any) -> None:
        line.pace.stop.set()
        if callable(before):
            before(number, frame)

    if catching:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield line.pace.stop.set
    finally:
        line.close()
        if catching:
            signal.signal(signal.SIGINT, before)


class _Guard:
    """Stops the work when failures are no matter of single images."""

    def __init__(self, num_complete: int, stop: Callable[[], None]) -> None:
        self.num_complete, self.stop = num_complete, stop
        self.kind, self.count = "", 0

    def judge(self, unit: Unit) -> None:
        """Raises InputError after too many failures of one kind in a row."""
        if unit.complete:
            self.count = 0
            self.num_complete += len(unit.complete)
        for failure in unit.failures:
            self.count = self.count + 1 if failure.kind == self.kind else 1
            self.kind = failure.kind
            if advice := self._advice():
                self.stop()
                raise InputError(f"{failure.url}: {failure.reason}, like {self.count} images in a row - {advice}")

    def _advice(self) -> str | None:
        if self.kind == REFUSED:
            return "the server does not want this" if self.count >= MAX_REFUSALS else None
        if self.count < MAX_ALIKE:
            return None
        if self.kind != UNAVAILABLE:
            return "the server or the way to it is not well; the same command goes on where it was"
        if self.num_complete:  # an antibody that was taken away
            return None
        return "does fetch.url belong to the Ids of fetch.labels?"
