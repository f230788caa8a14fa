"""How well and how fast are images dealt out to parts?

    uv run python benchmarks/split.py --labels train.csv             # against iterative-stratification, a minute
    uv run python benchmarks/split.py --labels train.csv --rows 10000000

The first compares, over several seeds, how far the share of each class in each part (its images over those of the part)
is from its share in the whole, mean and worst; the same of the number of its images, the mean over label sets of 20
images and more, the images of the rarest classes in each part, and
the time. `groups` deals a third of the images in groups of 2 to 6, drawn at random, which iterative-stratification can
not. The second repeats the label sets until there are so many rows, writes them as a csv with random ids, and prints
time and peak memory of each step in a process of its own.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.manifest import parse_parts, read_label_table, read_split_table, split_rows, write_split_table
from hpa_ray.manifest.build import multi_hot_column
from hpa_ray.manifest.split import part_sizes

PRESETS = ("24000/3000/4072", "0.8/0.1/0.1", "5 folds", "0.9/0.1")
NUM_RAREST = 3


def deviations(targets: np.ndarray, sets: np.ndarray, part_of: np.ndarray, shares: np.ndarray) -> list[float]:
    """Relative deviations over classes and parts in percent: of the share in a part, mean and worst; of the number of
    images, mean; of the number of images of each label set, mean."""
    num_parts = len(shares)
    rates = np.stack([targets[part_of == part].mean(axis=0) for part in range(num_parts)])
    whole = targets.mean(axis=0)
    off_rates = np.abs(rates - whole)[:, whole > 0] / whole[whole > 0]
    wanted = np.outer(shares, targets.sum(axis=0))
    found = np.stack([targets[part_of == part].sum(axis=0) for part in range(len(shares))])
    off = np.abs(found - wanted)[wanted > 0] / wanted[wanted > 0]
    sizes = np.bincount(sets)
    frequent = np.flatnonzero(sizes >= 20)
    wanted_sets = np.outer(shares, sizes[frequent])
    found_sets = np.stack([np.bincount(sets[part_of == part], minlength=len(sizes)) for part in range(len(shares))])
    off_sets = np.abs(found_sets[:, frequent] - wanted_sets) / wanted_sets
    return [100 * float(value) for value in (off_rates.mean(), off_rates.max(), off.mean(), off_sets.mean())]


def draw_groups(num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) group codes: groups of 2 to 6 over a third of the rows, the others by themselves."""
    sizes = rng.integers(2, 7, size=num_rows // 12)
    groups = np.arange(num_rows) + len(sizes)
    groups[rng.permutation(num_rows)[: sizes.sum()]] = np.repeat(np.arange(len(sizes)), sizes)
    return groups


def compare(labels: str, num_seeds: int) -> None:
    from iterstrat.ml_stratifiers import IterativeStratification

    table = read_label_table(labels)
    targets = multi_hot_column(table.labels)
    groups = draw_groups(len(targets), np.random.default_rng(0))
    _, sets = np.unique(np.packbits(targets, axis=1), axis=0, return_inverse=True)
    totals = targets.sum(axis=0)
    rarest = [k for k in np.argsort(totals).tolist() if totals[k]][:NUM_RAREST]
    print(f"{len(targets):,} images, {sets.max() + 1} label sets; {num_seeds} seeds; rarest classes: {rarest}")
    print(f"{'deviation in %:':43} share mean  worst  number  label sets    time   rarest classes per part")

    def ours(parts: Any, seed: int) -> np.ndarray:
        return split_rows(targets, parts, keys=table.image_ids, seed=seed)

    def grouped(parts: Any, seed: int) -> np.ndarray:
        part_of = split_rows(targets, parts, keys=table.image_ids, seed=seed, groups=groups)
        assert len(np.unique(np.stack([groups, part_of]), axis=1).T) == len(np.unique(groups)), "a group crosses parts"
        return part_of

    def reference(parts: Any, seed: int) -> np.ndarray:
        shares = np.array(parts) / sum(parts)
        dealt = IterativeStratification(targets.astype(bool), shares, np.random.RandomState(seed))
        return np.asarray(dealt)

    methods: dict[str, Callable[[Any, int], np.ndarray]] = {
        "split_rows": ours,
        "iterative-stratification": reference,
        "split_rows, groups": grouped,
    }
    for words in PRESETS:
        parts = parse_parts(words)
        if isinstance(parts[0], int) and sum(parts) != len(targets):
            continue
        sizes = part_sizes(parts, len(targets))
        for name, method in methods.items():
            rows, seconds = [], 0.0
            for seed in range(num_seeds):
                start = time.perf_counter()
                part_of = method(parts, seed)
                seconds += time.perf_counter() - start
                rows.append(deviations(targets, sets, part_of, np.array(parts) / sum(parts)))
            mean, worst, number, off_sets = np.mean(rows, axis=0)
            counts = [np.bincount(part_of[targets[:, k] > 0], minlength=len(parts)).tolist() for k in rarest]
            exact = "" if np.bincount(part_of).tolist() == sizes else f"  sizes {np.bincount(part_of).tolist()}"
            print(
                f"{words:16} {name:26} {mean:10.2f} {worst:6.1f} {number:7.2f} {off_sets:11.1f}"
                f" {seconds / num_seeds:6.2f} s   {' '.join('/'.join(map(str, count)) for count in counts)}{exact}"
            )


def write_big(labels: str, big: str, num_rows: int) -> None:
    """A label csv of num_rows rows in random order with random ids of 36 characters."""
    lines = [line.partition(",")[2] for line in Path(labels).read_text().splitlines()[1:]]
    rng = np.random.default_rng(0)
    with open(big, "w") as file:
        file.write("Id,Target\n")
        for start in range(0, num_rows, 10**6):
            words = rng.bytes(16 * min(10**6, num_rows - start)).hex()
            for row in range(min(10**6, num_rows - start)):
                w = words[32 * row : 32 * row + 32]
                cell = lines[(start + row) % len(lines)]
                file.write(f"{w[:8]}-{w[8:12]}-{w[12:16]}-{w[16:20]}-{w[20:]},{cell}\n")


def step(name: str, folder: str) -> None:
    """One step, and what it took; what it starts from is read before and not counted in the time."""
    big, part_csv = f"{folder}/labels.csv", f"{folder}/split.csv"
    if name == "read_label_table":
        measure(name, lambda: read_label_table(big))
        return
    table = read_label_table(big)
    if name.startswith("split_rows"):
        targets = multi_hot_column(table.labels)
        groups = draw_groups(len(targets), np.random.default_rng(0)) if "groups" in name else None
        part_of = measure(
            name, lambda: split_rows(targets, [0.8, 0.1, 0.1], keys=table.image_ids, seed=0, groups=groups)
        )
        np.save(f"{folder}/parts.npy", part_of)
        return
    if name == "write_split_table":
        words = pa.array(["train", "val", "test"]).take(pa.array(np.load(f"{folder}/parts.npy")))
        measure(name, lambda: write_split_table(part_csv, table.image_ids, words))
        return
    split = measure("read_split_table", lambda: read_split_table(part_csv))
    parts = measure("parts_of", lambda: split.parts_of(table.image_ids))
    assert parts.null_count == 0


def measure(name: str, work: Callable[[], Any]) -> Any:
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    result = work()
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    gib = 2**20
    print(
        f"{name:20} {wall:7.1f} s {cpu:7.1f} s of CPU   peak {after.ru_maxrss / gib:5.2f} GiB,"
        f" {before.ru_maxrss / gib:5.2f} before",
        flush=True,
    )
    return result


def big(labels: str, num_rows: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        write_big(labels, f"{folder}/labels.csv", num_rows)
        print(f"{num_rows:,} rows, {Path(folder, 'labels.csv').stat().st_size / 2**20:,.0f} MiB")
        for name in ("read_label_table", "split_rows, groups", "split_rows", "write_split_table", "read_split_table"):
            process = spawn.Process(target=step, args=(name, folder))  # a peak is that of a whole process
            process.start()
            process.join()
            assert process.exitcode == 0, name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", required=True, metavar="CSV")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="measure the tables at this many rows instead")
    args = parser.parse_args()
    if args.rows:
        big(args.labels, args.rows)
    else:
        compare(args.labels, args.seeds)
