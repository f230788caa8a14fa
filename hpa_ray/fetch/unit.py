"""A few images that one task downloads: ask, verify, write, note. Before: fetch/line. After: fetch/folder."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from hpa_ray.fetch.address import Address
from hpa_ray.fetch.line import GivenUp, Line, Manners, Pace, Refused, Stopped, Unavailable
from hpa_ray.ingest.decode import decode_plane
from hpa_ray.output import disk_full_told
from hpa_ray.schema import Reject
from hpa_ray.storage import join, write_bytes, write_json

KEY = "fetch.output"
NOTES = "parts"
"""Folder of what went wrong in each unit, until a fetch is finished: a restart knows what not to ask for again."""
CONNECTIONS = 2
"""Requests in flight per task: while one waits for the server, another is on its way."""
REFUSED, UNAVAILABLE = "refused", "unavailable"
MAX_REFUSALS = 5
"""Refusals in a row after which nothing more is asked for."""


class Wanted(NamedTuple):
    """An image and its stains that are not there yet."""

    image_id: str
    stains: tuple[str, ...]


class Failure(NamedTuple):
    """Why an image could not be had; `kind` is the same for all images with the same cause."""

    image_id: str
    file: str
    reason: str
    kind: str
    url: str

    def as_reject(self) -> Reject:
        return Reject(-1, self.image_id, self.file, self.reason)


class Unit(NamedTuple):
    """What became of the images of one unit; those in neither list were not decided."""

    complete: list[str]
    failures: list[Failure]
    num_files: int
    num_bytes: int
    retries: dict[str, int]


class UnitTask:
    """Download one unit; sent to Ray workers, which open a line of their own and keep it from unit to unit."""

    def __init__(
        self,
        output: str,
        address: Address,
        units: Sequence[Sequence[Wanted]],
        manners: Manners,
        *,
        shares: int,
        run: int,
    ) -> None:
        self.output, self.address, self.units, self.manners = output, address, units, manners
        self.shares, self.run = shares, run
        self.line: Line | None = None
        self.is_shared = False

    def open_shared_line(self) -> Line:
        """One line for all threads of this process; without it every unit has its own pace, a share of the whole."""
        pace = Pace(self.manners.requests_per_s)
        self.line, self.is_shared = Line(self.manners, pace, connections=2 * CONNECTIONS), True
        return self.line

    def __call__(self, number: int) -> dict[str, Any]:
        if self.line is None:
            self.line = Line(self.manners, Pace(1.0), connections=CONNECTIONS)
        if not self.is_shared:
            self.line.pace = Pace(self.manners.requests_per_s / self.shares)
        unit = _Download(self, self.line, self.units[number]).run()
        if unit.failures or unit.retries:
            with disk_full_told(KEY, self.output):
                write_json(join(self.output, NOTES, f"{self.run:04d}-{number:06d}.json"), unit._asdict())
        return unit._asdict()


class _Download:
    def __init__(self, task: UnitTask, line: Line, wanted: Sequence[Wanted]) -> None:
        self.task, self.line, self.wanted = task, line, wanted
        self.failures: dict[str, Failure] = {}
        self.saved: Counter[str] = Counter()  # files of an image
        self.num_bytes = 0
        self.retries: Counter[str] = Counter()
        self.refusals = 0
        self.lock = threading.Lock()

    def run(self) -> Unit:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for _ in pool.map(
                self._stain, [(image.image_id, stain) for image in self.wanted for stain in image.stains]
            ):
                pass
        complete = [image.image_id for image in self.wanted if self.saved[image.image_id] == len(image.stains)]
        failures = list(self.failures.values())
        return Unit(complete, failures, self.saved.total(), self.num_bytes, dict(self.retries))

    def _stain(self, job: tuple[str, str]) -> None:
        image_id, stain = job
        if image_id in self.failures or self.refusals >= MAX_REFUSALS:
            return
        address = self.task.address
        url, ending = address.url(image_id, stain), address.extension("")

        def fail(error: Exception, kind: str) -> None:
            name = f"{image_id}_{stain}" + (f".{ending}" if ending else "")
            self._fail(Failure(image_id, name, str(error), kind, url))

        try:
            answer = self.line.get(url, lambda data: decode_plane(data, stain), on_retry=self._retried)
            if (extension := address.extension(answer.content_type)) is None:
                raise GivenUp(f"of type {answer.content_type:.60}, which is no known image format", "format")
        except Unavailable as error:
            return fail(error, UNAVAILABLE)
        except Refused as error:
            return fail(error, REFUSED)
        except GivenUp as error:
            return fail(error, error.kind)
        except Stopped:
            return
        name = f"{image_id}_{stain}.{extension}"
        with disk_full_told(KEY, self.task.output):
            write_bytes(join(self.task.output, name), answer.data)
        with self.lock:
            self.saved[image_id] += 1
            self.num_bytes += len(answer.data)
            self.refusals = 0

    def _fail(self, failure: Failure) -> None:
        with self.lock:
            self.failures.setdefault(failure.image_id, failure)
            self.refusals = self.refusals + 1 if failure.kind == REFUSED else 0

    def _retried(self, kind: str) -> None:
        with self.lock:
            self.retries[kind] += 1
