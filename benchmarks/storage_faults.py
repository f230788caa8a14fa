"""What becomes of commands whose storage fails while they run: every fault, in every place. Nothing may be lost.

    uv run benchmarks/storage_faults.py                              # three minutes on two idle cores
    uv run benchmarks/storage_faults.py --faults reset "full disk"   # those with such words in their name
    uv run benchmarks/storage_faults.py --durable FOLDER             # what it costs to sync files on that disk

Each row is a command on 24 synthetic images of 32 px. Those with a bucket go to an S3 service in a process of its own,
by a proxy that breaks requests (tests/fault_proxy.py). `faults` is how many it has broken, `repeats` what the command
has told, `s lost` the time beyond that of the same command undisturbed, `samples` those that were lost or came twice.
Where a command ends, the line it told is shown, and what the same command gives once the place is well again.
"""

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from disks import bound_by_permissions, fill, remount, small_disk
from faulty_runs import BUCKET, NUM_IMAGES, Ended, Lab, lab, once
from object_store import Faults

from hpa_ray import storage

RUNS = f"s3://{BUCKET}/runs"
PASSING: dict[str, dict[str, Any]] = {
    "503 SlowDown": {"slow_down": 0.2},
    "429": {"too_many": 0.2},
    "500": {"server_error": 0.2},
    "502": {"bad_gateway": 0.2},
    "504": {"gateway_timeout": 0.2},
    "never answers": {"stall": 0.1, "stall_s": 1.5, "most": 4},
    "stalls in the answer": {"stall_body": 0.1, "stall_s": 1.5, "most": 4},
    "connection reset": {"reset": 0.2},
    "reset within the body": {"reset_body": 0.2},
    "body cut short": {"cut": 0.2},
    "half of the file": {"short": 0.2, "max_in_a_row": 1, "methods": ("GET",)},
    "a wrong byte": {"corrupt": 0.2, "methods": ("GET",)},
    "wrong e-tag": {"wrong_etag": 0.2, "methods": ("GET",)},
}
"""Shares of the requests; each fault is gone after three in a row."""
SECOND_PUT: dict[str, Any] = {"paths": "checkpoints/epoch-0002", "methods": ("PUT",), "server_error": 1.0}
FEW = "storage.max_attempts=3"


class Row(NamedTuple):
    outcome: str
    told: str
    """The line with which the command ended, empty if it came through."""
    num_faults: int
    retries: int
    seconds_lost: float
    samples: int

    @property
    def is_good(self) -> bool:
        return self.outcome.endswith(("same bytes", "same run", "same predictions")) and not self.samples


class Bench:
    def __init__(self, here: Lab) -> None:
        self.here = here
        self.numbers = iter(range(10**6))
        self.plain_s: dict[str, float] = {}
        """Of every command without faults."""
        self.predictions: dict[str, bytes] = {}

    def prepare(self, faults: dict[str, Any]) -> Row:
        output = f"s3://{BUCKET}/prepared-{next(self.numbers)}"
        ended, num_faults = self._call(faults, "prepare", *self.here.preparing(output))
        self.here.reach()
        local = self.here.root / "shards"
        names = [path.name for path in local.glob("*.arrow")]
        same = not ended.code and all(storage.read_bytes(f"{output}/{n}") == (local / n).read_bytes() for n in names)
        return self._row("prepare", ended, num_faults, "same bytes" if same else "other bytes")

    def predict(self, faults: dict[str, Any]) -> Row:
        output = f"s3://{BUCKET}/predicted-{next(self.numbers)}"
        ended, num_faults = self._call(faults, "predict", *self.here.predicting(output))
        self.here.reach()
        found = {} if ended.code else {n: storage.read_bytes(f"{output}/{n}") for n in storage.list_files(output)}
        self.predictions = self.predictions or found
        return self._row(
            "predict", ended, num_faults, "same predictions" if found == self.predictions else "other predictions"
        )

    def train(self, faults: dict[str, Any], *words: str, place: str = "train") -> Row:
        """place: `train`: the data fails; `checkpoint`: the run folder does; else all requests do."""
        name = f"run-{next(self.numbers)}"
        paths = {"train": f"/{BUCKET}/shards", "checkpoint": f"/{BUCKET}/runs"}.get(place, "")
        training = [*self.here.training(RUNS, name), *words]
        ended, num_faults = self._call({"paths": paths} | faults, "train", *training)
        if not ended.code:
            return self._row("train", ended, num_faults, self._same(f"{RUNS}/{name}"), self.here.lost())
        return self._resumed(ended, num_faults, RUNS, name)

    def resume(self, faults: dict[str, Any]) -> Row:
        """A training that had to stop and goes on while its run folder fails."""
        name = f"run-{next(self.numbers)}"
        stopped, _ = self._call(SECOND_PUT | {"max_in_a_row": None}, "train", *self.here.training(RUNS, name), FEW)
        assert stopped.code == 1
        words = [*self.here.training(RUNS, name), "run.resume=true"]
        ended, num_faults = self._call({"paths": f"/{BUCKET}/runs"} | faults, "train", *words)
        outcome = self._same(f"{RUNS}/{name}") if not ended.code else f"exit {ended.code}"
        return self._row("train", ended, num_faults, outcome, self.here.lost())

    def local(self, runs: Path, act: Callable[[Path], Any], mend: Callable[[Path], Any]) -> Row:
        """A training whose run folder is dealt with once its first checkpoint is there, and mended afterwards."""
        name = f"run-{next(self.numbers)}"
        folder = runs / name
        with once(lambda: any(folder.glob("checkpoints/epoch-0001*.pt")), functools.partial(act, folder)):
            ended = self.here.call("train", *self.here.training(str(runs), name))
        mend(folder)
        if not ended.code:
            return self._row("train", ended, 1, self._same(str(folder)), self.here.lost())
        return self._resumed(ended, 1, str(runs), name)

    def _call(self, faults: dict[str, Any], *words: str) -> tuple[Ended, int]:
        store = self.here.store
        store.reset_counts()
        store.faults = Faults(**({"seed": next(self.numbers)} | faults))
        try:
            return self.here.call(*words), store.counts.faults.total()
        finally:
            store.faults = Faults()

    def _resumed(self, ended: Ended, num_faults: int, runs: str, name: str) -> Row:
        again = self.here.call("train", *self.here.training(runs, name), "run.resume=true")
        outcome = f"exit {ended.code}, resumed: {self._same(f'{runs}/{name}') if not again.code else again.told[-1]}"
        both = ended._replace(seconds=ended.seconds + again.seconds)
        return self._row("train", both, num_faults, outcome, self.here.lost())

    def _same(self, run: str) -> str:
        self.here.reach()
        return self.here.difference(run) or "same run"

    def _row(self, verb: str, ended: Ended, num_faults: int, outcome: str, samples: int | None = None) -> Row:
        if samples is None:
            samples = NUM_IMAGES - ended.result.get("num_images", 0)
        told = ended.told[-1] if ended.code else ""
        retries = ended.result.get("storage_retries", 0)
        return Row(outcome, told, num_faults, retries, ended.seconds - self.plain_s.get(verb, ended.seconds), samples)


Case = tuple[str, str, Callable[[], Row]]


def cases(bench: Bench, root: Path) -> Iterator[Case]:
    """Name of the fault, where it strikes, and what runs it."""
    for name, faults in PASSING.items():
        yield name, "prepare", functools.partial(bench.prepare, faults)
        yield name, "train", functools.partial(bench.train, faults, place="train")
        if faults.get("methods") == ("GET",):
            yield name, "resume", functools.partial(bench.resume, faults)
        else:
            yield name, "checkpoint", functools.partial(bench.train, faults, place="checkpoint")
        yield name, "predict", functools.partial(bench.predict, faults)

    for times in (1, 2, 3):
        faults = SECOND_PUT | {"max_in_a_row": times if times < 3 else None}
        yield f"put fails {times} of 3 times", "checkpoint", functools.partial(bench.train, faults, FEW, place="all")
    after_first: dict[str, Any] = {"since": "checkpoints/epoch-0001", "max_in_a_row": None}
    for name, faults in {
        "keys run out, 403 for 5": {"denied": 1.0, "most": 5},
        "keys run out, 400 for 5": {"expired": 1.0, "most": 5},
        "keys run out for good": {"denied": 1.0},
        "store down for good": {"slow_down": 1.0},
    }.items():
        words = () if "most" in faults else (FEW,)
        yield name, "all", functools.partial(bench.train, after_first | faults, *words, place="all")

    for name, act, mend in (
        ("full disk", fill, lambda disk: (disk / "filler").unlink()),
        ("read-only remount", lambda disk: remount(disk, "ro"), lambda disk: remount(disk, "rw")),
    ):
        yield name, "checkpoint", functools.partial(on_a_small_disk, bench, root, act, mend)
    yield "permission lost", "checkpoint", functools.partial(without_permission, bench, root / "runs", "")
    yield (
        "permission of a part lost",
        "checkpoint",
        functools.partial(without_permission, bench, root / "runs", "checkpoints"),
    )
    yield (
        "run folder removed",
        "checkpoint",
        functools.partial(
            bench.local, root / "runs", lambda folder: folder.rename(root / "removed"), lambda folder: None
        ),
    )


def on_a_small_disk(bench: Bench, root: Path, act: Callable[[Path], Any], mend: Callable[[Path], Any]) -> Row:
    with small_disk(root / f"disk-{next(bench.numbers)}", 2**25) as disk:
        return bench.local(disk, lambda run: act(disk), lambda run: mend(disk))


def without_permission(bench: Bench, runs: Path, part: str) -> Row:
    with bound_by_permissions():
        return bench.local(runs, lambda run: (run / part).chmod(0o555), lambda run: (run / part).chmod(0o755))


@contextmanager
def ready(root: Path) -> Iterator[Bench]:
    """With the time that every command takes undisturbed."""
    with lab(root) as here:
        bench = Bench(here)
        for _ in range(2):  # the first imports
            for verb in ("prepare", "train", "predict"):
                began = time.monotonic()
                assert getattr(bench, verb)({}).is_good, verb
                bench.plain_s[verb] = time.monotonic() - began
        yield bench


def durable(folder: Path) -> None:
    """Seconds to write a file under a temporary name and rename it, by what is synced."""
    print(f"{'':12}{'nothing':>12}{'the file':>12}{'file, folder':>14}   (ms, median)")
    for num_bytes, repeats in ((4_000, 100), (1_000_000, 40), (90_000_000, 5)):
        data = os.urandom(num_bytes)
        cells = []
        for synced in ((), ("file",), ("file", "folder")):
            times = []
            for _ in range(repeats):
                began = time.perf_counter()
                with open(folder / "x.tmp", "wb") as file:
                    file.write(data)
                    if "file" in synced:
                        file.flush()
                        os.fsync(file.fileno())
                os.replace(folder / "x.tmp", folder / "x")
                if "folder" in synced:
                    number = os.open(folder, os.O_RDONLY)
                    os.fsync(number)
                    os.close(number)
                times.append(time.perf_counter() - began)
            cells.append(1000 * statistics.median(times))
        print(f"{num_bytes:10,} B{cells[0]:12.2f}{cells[1]:12.2f}{cells[2]:14.2f}", flush=True)
    (folder / "x").unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", default=[""], metavar="WORDS")
    parser.add_argument("--durable", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.durable:
        durable(arguments.durable)
        return 0
    wrong = num_rows = 0
    began = time.monotonic()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = stack.enter_context(ready(root))
        print(f"{'fault':27}{'where':12}{'outcome':34}{'faults':>7}{'repeats':>8}{'s lost':>8}{'samples':>8}")
        for name, where, run in cases(bench, root):
            if not any(words in name for words in arguments.faults):
                continue
            try:
                row = run()
            except OSError as error:  # of a disk that can not be mounted here
                print(f"{name:27}{where:12}left out: {error}", flush=True)
                continue
            numbers = f"{row.num_faults:7}{row.retries:8}{row.seconds_lost:8.1f}{row.samples:8}"
            print(f"{name:27}{where:12}{row.outcome:34}{numbers}", flush=True)
            if row.told:
                print(f"{'':39}{row.told}", flush=True)
            wrong += not row.is_good
            num_rows += 1
    print(f"{num_rows} rows, {wrong} of them wrong, {time.monotonic() - began:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
