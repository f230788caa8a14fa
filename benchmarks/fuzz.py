"""Damaged and odd input of every kind, given to the functions that read what a user names.

    uv run benchmarks/fuzz.py                                # 100,000 inputs, two processes
    uv run benchmarks/fuzz.py --seconds 120 --targets png,tiff,jpeg
    uv run benchmarks/fuzz.py --targets png --seed 0 --first 4711 --inputs 1      # one of them again

Each input is made from valid files and from (seed, target, number): the same seed gives the same inputs. It must be
accepted with a result that is right (pixels as Pillow decodes them, a configuration that comes back from its own
dump, ids as they stand in the file, shards, checkpoints and models with the content they were written with), or
refused with an InputError (of one image a DecodeError) of printable lines. Anything else is a finding: another
exception, a dead process, more than --seconds-each for an input, more memory than --memory-mib beyond the start. Its
content and what is known of it are written to --output. Exit code 1 if there are findings.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from fuzzing.workers import BLOCK, Block, Count, Limits, run_all

TARGETS = {
    "config": ("fuzzing.config:ConfigFile", 8),
    "space": ("fuzzing.studies:SpaceFile", 2),
    "trial": ("fuzzing.studies:TrialFiles", 4),
    "labels": ("fuzzing.tables:Labels", 8),
    "split": ("fuzzing.tables:Split", 5),
    "groups": ("fuzzing.tables:Groups", 5),
    "submission": ("fuzzing.tables:Submission", 4),
    "names": ("fuzzing.names:Names", 8),
    "png": ("fuzzing.png:Png", 14),
    "tiff": ("fuzzing.tiff:Tiff", 14),
    "jpeg": ("fuzzing.jpeg:Jpeg", 8),
    "shards": ("fuzzing.shards:Shards", 10),
    "checkpoint": ("fuzzing.models:Checkpoint", 6),
    "model": ("fuzzing.models:Model", 4),
}
"""Name -> where it is, and its share of the inputs in percent."""
SAY_EVERY_S = 30
FINDINGS = Path(tempfile.gettempdir()) / "fuzz-findings"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, help="end after so long; unset: when all inputs are done")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default=",".join(TARGETS), help="names, with commas between them")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds-each", type=float, default=Limits().seconds)
    parser.add_argument("--memory-mib", type=int, default=Limits().memory_mib)
    parser.add_argument("--output", type=Path, default=FINDINGS, help="folder for findings")
    arguments = parser.parse_args()
    names = arguments.targets.split(",")
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no targets {', '.join(sorted(unknown))} - there are {', '.join(TARGETS)}")
    blocks = plan(names, arguments.inputs, arguments.first)
    counts = dict.fromkeys(names, Count())
    began = told = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        results = run_all(
            blocks,
            {name: TARGETS[name][0] for name in names},
            seed=arguments.seed,
            processes=arguments.processes,
            place=Path(scratch),
            findings=arguments.output,
            limits=Limits(arguments.seconds_each, arguments.memory_mib),
        )
        for name, count in results:
            counts[name] += count
            now = time.monotonic()
            if now - told > SAY_EVERY_S:
                told = now
                done = sum(counts.values(), Count())
                print(f"{done.inputs:,} inputs, {done.findings} findings, {now - began:,.0f} s", flush=True)
            if arguments.seconds and now - began > arguments.seconds:
                break
        results.close()
    report(counts, time.monotonic() - began)
    findings = sum(count.findings for count in counts.values())
    if findings:
        print(f"findings are in {arguments.output}")
    return int(findings > 0)


def plan(names: list[str], num_inputs: int, first: int) -> list[Block]:
    """The inputs in blocks, the targets in turn, each with its share."""
    whole = sum(TARGETS[name][1] for name in names)
    placed: list[tuple[float, Block]] = []
    for name in names:
        count = -(-num_inputs * TARGETS[name][1] // whole)
        for start in range(0, count, BLOCK):
            block = Block(name, first + start, first + min(start + BLOCK, count))
            placed.append((start / count, block))
    return [block for _, block in sorted(placed, key=lambda item: item[0])]


def report(counts: dict[str, Count], seconds: float) -> None:
    print(f"{'target':<12}{'inputs':>9}{'accepted':>10}{'refused':>9}{'findings':>10}{'inputs/s':>10}{'slowest':>22}")
    for name, count in (*counts.items(), ("all", sum(counts.values(), Count()))):
        rate = count.inputs / (seconds if name == "all" else max(count.seconds, 1e-9))
        slowest = "" if name == "all" else f"{count.slowest_s:.2f} s (number {count.slowest})"
        print(
            f"{name:<12}{count.inputs:>9,}{count.accepted:>10,}{count.refused:>9,}{count.findings:>10,}"
            f"{rate:>10,.0f}{slowest:>22}"
        )


if __name__ == "__main__":
    sys.exit(main())
