"""Many synthetic fields -> a folder in competition form (PNGs + train.csv). Before: synth/render. After: manifest."""

import csv
import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
from PIL import Image

from hpa_ray.channels import STAINS
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES, format_labels
from hpa_ray.synth.render import render_field

NAMESPACE = UUID("6f2c1c4e-3a59-5d0e-9a57-28c1a55e5000")
"""Makes the Ids of images that are given none: uuid5 of it and "<seed>/<row>"."""
DRAWING = 2
"""Raised whenever the same seed gives other pixels: images of two versions do not mix."""
IMAGES_PER_CHUNK = 8
PNG_LEVEL = 4
"""zlib level. Measured on one core at 512 px: 55 ms an image and 121 KB a plane; Pillow's default of 6 takes 124 ms for
120 KB, level 3 takes 40 ms for 131 KB."""

# Share of images with the class: long-tailed as the real table, but 1,500 images hold some 40 of the rarest.
CLASS_SHARES = {
    0: 0.150, 25: 0.130, 21: 0.090, 2: 0.080, 23: 0.080, 7: 0.075, 5: 0.065, 4: 0.060, 19: 0.055, 3: 0.055,
    1: 0.050, 11: 0.050, 14: 0.050, 6: 0.050, 18: 0.045, 22: 0.045, 12: 0.045, 13: 0.045, 16: 0.045, 24: 0.040,
    26: 0.040, 20: 0.040, 17: 0.035, 8: 0.035, 9: 0.035, 10: 0.030, 15: 0.030, 27: 0.030,
}  # fmt: skip
LABELS_PER_IMAGE = (0.5, 0.4, 0.1)
"""Share of images with one, two and three labels."""
TOGETHER = {(0, 25): 2.0, (0, 2): 2.0, (9, 10): 6.0, (21, 25): 2.0, (2, 25): 1.5, (14, 17): 2.0}
"""Pairs of classes that share images this many times as often as chance has it."""


def draw_label_sets(num_images: int, *, seed: int) -> list[list[int]]:
    """Label sets of a synthetic atlas, ascending within an image; every class occurs where num_images allows it."""
    rng = np.random.default_rng([seed, 0])
    shares = np.array([CLASS_SHARES[k] for k in range(NUM_CLASSES)])
    affinity = np.ones((NUM_CLASSES, NUM_CLASSES))
    for (a, b), factor in TOGETHER.items():
        affinity[a, b] = affinity[b, a] = factor
    drawn = []
    for size in rng.choice((1, 2, 3), max(num_images, 1000), p=LABELS_PER_IMAGE):
        weights, labels = shares.copy(), list[int]()
        while len(labels) < size:
            label = int(rng.choice(NUM_CLASSES, p=weights / weights.sum()))
            labels.append(label)
            weights = weights * affinity[label]
            weights[label] = 0
        drawn.append(sorted(labels))
    return sample_label_sets(drawn, num_images, seed=seed)


def sample_label_sets(label_sets: Sequence[Sequence[int]], num_images: int, *, seed: int) -> list[list[int]]:
    """`num_images` label sets out of the given ones: all of them in their order if the number is the same.

    Otherwise a seeded draw that repeats a set only when all are used up, and that begins with one set for each class,
    the rarest class first, so that no class of the source is missing while num_images allows it.
    """
    if num_images == len(label_sets):
        return [list(labels) for labels in label_sets]
    if not label_sets:
        raise InputError(f"no label set to draw {num_images} images from: the csv has no row")
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(label_sets))
    with_class: dict[int, list[int]] = {}
    for row in order:
        for label in label_sets[row]:
            with_class.setdefault(label, []).append(int(row))
    chosen: dict[int, None] = {}
    covered: set[int] = set()
    for label in sorted(with_class, key=lambda k: (len(with_class[k]), k)):
        if label not in covered:
            chosen[with_class[label][0]] = None
            covered.update(label_sets[with_class[label][0]])
    rows = [*chosen, *(int(row) for row in order if row not in chosen)]
    while len(rows) < num_images:
        rows += rng.permutation(len(label_sets)).tolist()
    return [list(label_sets[row]) for row in rng.permutation(np.array(rows[:num_images], dtype=np.int64))]


def write_atlas(
    output: Path,
    label_sets: Sequence[Sequence[int]],
    *,
    image_size: int,
    seed: int,
    image_ids: Sequence[str] | None = None,
    num_workers: int,
    on_progress: Callable[[int], None] = lambda num_done: None,
) -> None:
    """Writes `<output>/train/<Id>_<color>.png` (8-bit gray) and, when all are there, `<output>/train.csv`.

    The bytes depend on seed, row, labels and image_size, not on `num_workers` (0 or 1: in this process). After a stop,
    the same call goes on where it was; `<output>/synth.json` tells it that the call is the same. `on_progress` gets
    the number of images done so far. Raises InputError where another atlas is in the way, OSError on a full disk.
    """
    if image_ids is None:
        image_ids = [str(uuid5(NAMESPACE, f"{seed}/{row}")) for row in range(len(label_sets))]
    ids = list(image_ids)
    if len(ids) != len(label_sets) or len(set(ids)) < len(ids):
        raise InputError(f"{len(set(ids))} different image ids for {len(label_sets)} label sets: give one to each")
    if image_size < 1:
        raise InputError(f"image_size = {image_size}: the side of an image must be at least 1 px")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("Id", "Target"))
    writer.writerows(sorted((id_, format_labels(labels)) for id_, labels in zip(ids, label_sets, strict=True)))
    rows = [f"{id_},{format_labels(labels)}" for id_, labels in zip(ids, label_sets, strict=True)]
    _claim(output, image_size=image_size, seed=seed, rows=rows)

    images = output / "train"
    images.mkdir(exist_ok=True)
    jobs = [(row, ids[row], list(label_sets[row])) for row in range(len(ids))]
    chunks = [jobs[start : start + IMAGES_PER_CHUNK] for start in range(0, len(jobs), IMAGES_PER_CHUNK)]
    num_done = 0
    for num_written in _write_chunks(images, chunks, image_size=image_size, seed=seed, num_workers=num_workers):
        num_done += num_written
        on_progress(num_done)
    _put(output / "train.csv", table.getvalue().encode())


def _claim(output: Path, *, image_size: int, seed: int, rows: Sequence[str]) -> None:
    """Marks the folder as the place of this atlas, or says why it cannot be."""
    if (output / "train.csv").exists():
        raise InputError(
            f"{output} already holds an atlas (train.csv): give another synth.output or remove that folder"
        )
    digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    recipe = {
        "drawing": DRAWING,
        "image_size": image_size,
        "seed": seed,
        "num_images": len(rows),
        "rows_sha256": digest,
    }
    note = output / "synth.json"
    if note.exists() and json.loads(note.read_text()) != recipe:
        raise InputError(
            f"{output} holds an unfinished atlas of another size, seed or label sets, or by another version "
            "(synth.json): repeat that call to finish it, give another synth.output, or remove that folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    _put(note, (json.dumps(recipe, indent=1) + "\n").encode())


Chunk = list[tuple[int, str, list[int]]]
"""(row, Id, labels) of a few images."""


def _write_chunks(
    images: Path, chunks: Sequence[Chunk], *, image_size: int, seed: int, num_workers: int
) -> Iterator[int]:
    """Writes all chunks, in this process or in others, and yields the number of images of each as it is done."""
    num_workers = min(num_workers, len(chunks))  # starting one costs as much as drawing a few images
    if num_workers <= 1:
        for chunk in chunks:
            yield _write_chunk(images, chunk, image_size, seed)
        return
    # spawn: a fork of a process with threads (Ray, torch) may hang
    pool = ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for done in as_completed([pool.submit(_write_chunk, images, chunk, image_size, seed) for chunk in chunks]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C: no new chunk begins


def _write_chunk(images: Path, chunk: Chunk, image_size: int, seed: int) -> int:
    for row, id_, labels in chunk:
        paths = [images / f"{id_}_{stain}.png" for stain in STAINS]
        if all(path.exists() for path in paths):
            continue
        for path, plane in zip(paths, render_field(labels, seed=(seed, row), image_size=image_size), strict=True):
            encoded = io.BytesIO()
            Image.fromarray(plane).save(encoded, "PNG", compress_level=PNG_LEVEL)
            _put(path, encoded.getvalue())
    return len(chunk)


def _put(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all; through a link that somebody has put there, never."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.unlink(missing_ok=True)
    try:
        unfinished.touch(exist_ok=False)
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)  # on a full disk, half a file only takes room
        raise
