"""Ten million images: time and memory of `check` and `split` on their labels, and of starting to train on their shards.

    uv run benchmarks/ten_million.py FOLDER --labels train.csv

FOLDER is for scratch (2 GB). The label sets are those of --labels over and over, the shards hold one stain of 8 px per
image: what is measured is the manifest, the split and the order, not the pixels.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from hpa_ray.channels import STAIN_ORDER
from hpa_ray.ingest.prepare import _ipc_file
from hpa_ray.ingest.stack import RESIZE_RULE
from hpa_ray.labels import NUM_CLASSES, VOCABULARY
from hpa_ray.manifest import read_label_table
from hpa_ray.schema import MANIFEST_ROW
from hpa_ray.shards import (
    CHECKSUMS_FILE,
    CHUNK_ROWS,
    INDEX_FILE,
    MANIFEST_FILE,
    ShardEntry,
    ShardIndex,
    encode_shard,
    write_index,
)
from hpa_ray.shards.format import FORMAT, FORMAT_VERSION
from hpa_ray.storage import write_bytes

SIDE = 8
ROWS_PER_SHARD = 2**19

STREAM = """
import json, resource, sys, time
start = time.perf_counter()
from hpa_ray.config import load_config
from hpa_ray.stream import EpochOrder, Place, Sampling, Schedule, Steps, local_feed, open_data
data = open_data(load_config(sys.argv[1:]))
opened = time.perf_counter() - start
order = EpochOrder(len(data.parts["train"]), 0)
steps = Steps(order.num_rows, 256, 1)
samples, start = Sampling(order.num_rows, 0, None), Place(0, steps)
schedule = Schedule(data.parts["train"], data.parts["val"], samples, order, steps, 0, start, 1)
feed = local_feed(data.source, schedule, prefetch=4)
batch = next(feed)
first = time.perf_counter() - start
began = time.perf_counter()
for _ in range(100):
    next(feed)
rate = 100 * 256 / (time.perf_counter() - began)
print(json.dumps({"open_s": round(opened, 1), "first_batch_s": round(first, 1), "images_per_s": round(rate),
                  "train": len(data.parts["train"]), "val": len(data.parts["val"])}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", required=True, help="a csv (Id,Target) whose label sets are repeated")
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    labels, shards, split = folder / "labels.csv", folder / "shards", folder / "split.csv"
    if not (shards / INDEX_FILE).exists():
        write_data(arguments.labels, arguments.rows, labels, shards)
    print(f"{arguments.rows:,} rows: {labels.stat().st_size / 2**20:,.0f} MiB of csv", flush=True)
    verb = [sys.executable, "-m", "hpa_ray.cli"]
    measure("check", [*verb, "check", f"data.labels={labels}"])
    measure("split", [*verb, "split", f"data.labels={labels}", f"split.output={split}", "split.parts=0.8/0.1/0.1"])
    stream = [sys.executable, "-c", STREAM, f"data.shards={shards}", "data.channels=green"]
    measure("stream, split given", [*stream, f"data.split={split}"])
    measure("stream, split made", stream)


def measure(name: str, command: list[str]) -> None:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    last = said[-1] if said else ""
    state = "" if status == 0 else f"  FAILED ({status})"
    print(f"{name:<22}{seconds:7.1f} s  {usage.ru_maxrss / 2**20:6.2f} GiB at most{state}  {last}", flush=True)


def write_data(source: str, num_rows: int, labels: Path, shards: Path) -> None:
    """The label csv, and a shard folder of the same images, written as `prepare` writes one."""
    table = read_label_table(source)
    sets = table.labels.take(pa.array(np.arange(num_rows) % len(table.labels)))
    words = pa.array([" ".join(map(str, labels)) for labels in table.labels.to_pylist()])
    with open(labels, "w") as file:
        file.write("Id,Target\n")
        texts = words.to_pylist()
        for start in range(0, num_rows, 10**6):
            file.writelines(
                f"{name_of(k)},{texts[k % len(texts)]}\n" for k in range(start, min(start + 10**6, num_rows))
            )
    entries, checksums = [], []
    for number, start in enumerate(range(0, num_rows, ROWS_PER_SHARD)):
        rows = range(start, min(start + ROWS_PER_SHARD, num_rows))
        pixels = np.random.default_rng(number).integers(0, 256, (len(rows), 1, SIDE, SIDE), np.uint8)
        checksums += [zlib.crc32(image) for image in pixels]
        data, offsets = encode_shard([name_of(k) for k in rows], pixels)
        file_name = f"shard-{number:05d}.arrow"
        write_bytes(str(shards / file_name), data)
        entries.append(
            ShardEntry(file=file_name, rows=len(rows), bytes=data.size, sha256=f"{number:064x}", offsets=offsets)
        )
    kinds = pa.DictionaryArray.from_arrays(pa.array(np.zeros(num_rows, np.int8)), pa.array(["png"]))
    ids = pa.array([name_of(k) for k in range(num_rows)])
    columns = [ids, pa.array(np.zeros(num_rows, np.int8)), kinds, sets]
    manifest = _ipc_file(pa.table(columns, schema=MANIFEST_ROW))
    of_images = _ipc_file(pa.table({"crc32": pa.array(checksums, pa.uint32())}))
    write_bytes(str(shards / MANIFEST_FILE), manifest)
    write_bytes(str(shards / CHECKSUMS_FILE), of_images)
    index = ShardIndex(
        format=FORMAT,
        version=FORMAT_VERSION,
        vocabulary=VOCABULARY,
        stain_order=STAIN_ORDER,
        channels=("green",),
        image_size=SIDE,
        resize_rule=RESIZE_RULE,
        white_level=65535,
        fingerprint="benchmark",
        num_images=num_rows,
        num_rejected=0,
        mean=(0.5,),
        std=(0.29,),
        sources=(),
        class_counts=tuple(np.bincount(sets.flatten().to_numpy(), minlength=NUM_CLASSES).tolist()),
        chunk_rows=CHUNK_ROWS,
        shards=tuple(entries),
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        checksums_sha256=hashlib.sha256(of_images).hexdigest(),
    )
    write_index(str(shards), index)


def name_of(row: int) -> str:
    """Ids as long as those of the competition, in no order."""
    return f"{row * 2654435761 % 2**32:08x}-bbad-11e8-b2ba-{row:012x}"


if __name__ == "__main__":
    main()
