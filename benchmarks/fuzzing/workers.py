"""Inputs run in processes of their own, which are replaced when one dies, hangs or asks for too much memory.

An input is made from (seed, target, number) alone, so it does not matter which process runs it, or after what.
"""

import contextlib
import faulthandler
import importlib
import io
import multiprocessing
import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Generator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from fuzzing.case import Case, Target

BLOCK = 250
"""Inputs that a process is given at a time."""
KEPT = 100
"""Findings of a target that are written down; the others are only counted."""
STATM = Path("/proc/self/statm")
NUMBER, BEGAN, ACCEPTED, REFUSED, FOUND, SLOWEST_S, SLOWEST, FIELDS = range(8)


class Limits(NamedTuple):
    seconds: float = 20
    """For one input."""
    memory_mib: int = 1536
    """Of address space on top of what a process has when it begins."""


class Block(NamedTuple):
    target: str
    first: int
    stop: int


class Count(NamedTuple):
    """What became of the inputs of a block, or of several."""

    accepted: int = 0
    refused: int = 0
    findings: int = 0
    seconds: float = 0
    slowest_s: float = 0
    slowest: int = 0

    def __add__(self, other: "Count") -> "Count":  # type: ignore[override]
        slower = max((self, other), key=lambda count: count.slowest_s)
        sums = [mine + theirs for mine, theirs in zip(self[:4], other[:4], strict=True)]
        return Count(int(sums[0]), int(sums[1]), int(sums[2]), sums[3], slower.slowest_s, slower.slowest)

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused + self.findings


def rng_of(seed: int, target: str, number: int) -> Random:
    return Random(f"{seed}/{target}/{number}")


def target_of(name: str, targets: dict[str, str], folder: Path) -> Target:
    """The target of a table of names and `module:Class`."""
    module, _, cls = targets[name].partition(":")
    target: Target = getattr(importlib.import_module(module), cls)(folder / name)
    return target


def run_block(target: Target, block: Block, seed: int, findings: Path, state: Any) -> None:
    """Run the inputs of a block; `state` always tells which one is being run, and what became of those before it."""
    for number in range(block.first, block.stop):
        state[NUMBER], state[BEGAN] = number, time.monotonic()
        case = None
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                case = target.make(rng_of(seed, block.target, number))
                accepted = target.accepts(case)
        except Exception as error:
            state[FOUND] += 1
            write_finding(findings, block.target, seed, number, case, error)
        else:
            state[ACCEPTED if accepted else REFUSED] += 1
        seconds = time.monotonic() - state[BEGAN]
        if seconds > state[SLOWEST_S]:
            state[SLOWEST_S], state[SLOWEST] = seconds, number


def write_finding(
    folder: Path, target: str, seed: int, number: int, case: Case | None, reason: "Exception | str"
) -> None:
    """The content of an input, and beside it all else there is to know of it."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob(f"{target}-*.txt"))) >= KEPT:
        return
    again = f"uv run benchmarks/fuzz.py --targets {target} --seed {seed} --first {number} --inputs 1"
    told = reason if isinstance(reason, str) else "".join(traceback.format_exception(reason))
    words = [] if case is None else [ascii(word) for word in case.words]
    text = "\n".join([again, *words, "", told[-8000:].encode("ascii", "backslashreplace").decode()])
    (folder / f"{target}-{number}.txt").write_text(text.rstrip() + "\n")
    if case is not None:
        (folder / f"{target}-{number}.bin").write_bytes(case.content)


def _serve(pipe: Connection, state: Any, targets: dict[str, str], seed: int, place: Path, limits: Limits) -> None:
    """The life of a process: blocks come, answers go."""
    trace = open(place / "trace.txt", "w")  # noqa: SIM115 (faulthandler writes to it when this process dies)
    faulthandler.enable(trace)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and libjpeg talk to it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("error")
    ready = {name: target_of(name, targets, place) for name in targets}
    if STATM.exists():  # other systems than Linux do not keep to such a limit
        used = int(STATM.read_text().split()[0]) * resource.getpagesize()
        most = used + limits.memory_mib * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    pipe.send("ready")
    while True:
        try:
            block, findings, reason = pipe.recv()
        except EOFError:
            return
        if reason is None:
            run_block(ready[block.target], block, seed, findings, state)
        else:  # of an input that a process before this one has died of
            case = ready[block.target].make(rng_of(seed, block.target, block.first))
            write_finding(findings, block.target, seed, block.first, case, reason)
        pipe.send("done")


class Worker:
    """A process, and the block it is at."""

    def __init__(self, targets: dict[str, str], seed: int, place: Path, limits: Limits) -> None:
        context = multiprocessing.get_context("spawn")
        self.arguments = (targets, seed, place, limits)
        self.place, self.limits = place, limits
        place.mkdir(parents=True, exist_ok=True)
        self.state: Any = context.RawArray("d", FIELDS)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.state, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.block: Block | None = None
        self.began = 0.0
        self.is_ready = self.is_writing = False

    def give(self, block: Block, findings: Path, reason: str | None = None) -> None:
        self.state[:] = [block.first, time.monotonic(), *[0] * (FIELDS - 2)]
        self.block, self.began, self.is_writing = block, time.monotonic(), reason is not None
        self.pipe.send((block, findings, reason))

    def answer(self) -> str | None:
        """What the process has sent, if anything; an end of the pipe is an end of the process."""
        try:
            return str(self.pipe.recv()) if self.pipe.poll() else None
        except (EOFError, ConnectionResetError):
            self.process.join(self.limits.seconds)
            return None

    def taken(self) -> Count:
        """What became of the inputs so far of the block."""
        accepted, refused, found = (int(self.state[field]) for field in (ACCEPTED, REFUSED, FOUND))
        seconds = time.monotonic() - self.began
        return Count(accepted, refused, found, seconds, self.state[SLOWEST_S], int(self.state[SLOWEST]))

    def is_late(self) -> bool:
        return self.block is not None and time.monotonic() - self.state[BEGAN] > self.limits.seconds

    def end(self) -> str:
        """Stop the process; returns how it ended and what it was at."""
        late = self.process.is_alive()
        if late and self.process.pid:
            os.kill(self.process.pid, signal.SIGABRT)  # faulthandler writes down where it was
            self.process.join(5)
            if self.process.is_alive():
                self.process.kill()
        self.process.join()
        self.pipe.close()
        how = f"took more than {self.limits.seconds} s" if late else f"died with exit code {self.process.exitcode}"
        return f"{how}\n\n{(self.place / 'trace.txt').read_text()}"


def run_all(
    blocks: list[Block],
    targets: dict[str, str],
    *,
    seed: int,
    processes: int,
    place: Path,
    findings: Path,
    limits: Limits,
) -> Generator[tuple[str, Count], None, None]:
    """Target and counts of each block that is done. `place` is for scratch; stop iterating and all processes end."""
    waiting = list(reversed(blocks))
    workers = [Worker(targets, seed, place / str(k), limits) for k in range(min(processes, len(blocks)))]
    lost: list[tuple[Block, str]] = []  # inputs that a process has died of, to be written down by another one
    try:
        while waiting or lost or any(worker.block for worker in workers):
            for worker in workers:
                if not worker.is_ready or worker.block is not None:
                    continue
                if lost:
                    died, how = lost.pop()
                    worker.give(died, findings, how)
                elif waiting:
                    worker.give(waiting.pop(), findings)
            if not any(worker.block or not worker.is_ready for worker in workers):
                continue
            wait([worker.pipe for worker in workers] + [worker.process.sentinel for worker in workers], timeout=0.5)
            for k, worker in enumerate(workers):
                answer = worker.answer()
                dead = answer is None and not worker.process.is_alive()
                if answer is not None:
                    if answer == "done" and worker.block is not None:
                        yield worker.block.target, worker.taken()
                    worker.block, worker.is_ready = None, True
                elif dead and worker.block is None:
                    raise RuntimeError(f"a process could not begin: {worker.end()}")
                elif dead or worker.is_late():
                    assert worker.block is not None
                    block, at, count = worker.block, int(worker.state[NUMBER]), worker.taken()
                    reason = worker.end()
                    workers[k] = Worker(targets, seed, worker.place, limits)
                    if worker.is_writing:  # not even made without dying
                        continue
                    yield block.target, count + Count(findings=1, slowest_s=limits.seconds if "took" in reason else 0)
                    lost.append((Block(block.target, at, at + 1), reason))
                    if at + 1 < block.stop:
                        waiting.append(Block(block.target, at + 1, block.stop))
    finally:
        for worker in workers:
            if worker.process.is_alive():
                worker.process.terminate()
            worker.process.join()
