"""`explore`: what a data set looks like, as a page of figures."""

import shlex
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, home, resolve, with_atlas
from hpa_ray.config import Config
from hpa_ray.explore import (
    FigureFolder,
    LabelNumbers,
    Opened,
    draw_images,
    draw_samples,
    intensity_rows,
    label_numbers,
    label_sections,
    measure,
    open_everything,
    pixel_sections,
    read_samples,
    sample_sections,
)
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.manifest import problem_lines
from hpa_ray.page import Code, Problems, Section, Text, render_page
from hpa_ray.progress import console
from hpa_ray.schema import Reject
from hpa_ray.storage import join, write_bytes, write_json

UNLABELLED_SAMPLES = 12
PROBLEMS_LISTED = 30


def explore(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    if not has_data(config):
        config = with_atlas(config)
    output = config.explore.output or str(home() / "explore")
    opened = open_everything(config)
    for note in opened.notes:
        console.say(f"note: {note}")
    folder = FigureFolder(output)
    result: dict[str, Any] = {"data": opened.where, "num_images": len(opened.image_ids)}
    sections = _labels(opened, folder, result)
    rejects: list[Reject] = []
    if opened.has_images:
        sections += _samples(config, opened, folder, rejects)
        sections += _intensities(config, opened, folder, rejects, result)
    once = {reject.row: reject for reject in rejects}.values()  # drawn as a sample and for its intensities
    rejects = [*opened.rejects, *once]
    problems = opened.problems + problem_lines(opened.where, rejects, shown=PROBLEMS_LISTED)
    if problems or opened.notes:
        sections.append(Section("Problems", [Problems(problems), *map(Text, opened.notes)]))
    following = _next_command(config)
    sections.append(Section("Next", [Code(following)]))
    result |= {"problems": problems, "num_rejected": len(rejects), "notes": opened.notes, "figures": folder.files}
    html = render_page("What is in the data", sections, subtitle=opened.where)
    write_bytes(join(output, "explore.html"), html.encode())
    write_json(join(output, "explore.json"), result)
    for line in opened.problems + problem_lines(opened.where, rejects):
        console.say(f"problem  {line}")
    console.say(f"written: {output}/explore.html, explore.json and {len(folder.files)} files in figures/")
    console.say(f"next: {following}")
    return {"explore": join(output, "explore.html"), "num_images": len(opened.image_ids), "figures": folder.files}


def _labels(opened: Opened, folder: FigureFolder, result: dict[str, Any]) -> list[Section]:
    if not opened.known_N.any():
        return []
    numbers = label_numbers(opened.targets_NK[opened.known_N])
    _say_classes(numbers)
    result["labels"] = numbers.as_json()
    of_source = {name: opened.known_N & (opened.source_N == number) for number, name in enumerate(opened.names)}
    by_source = {name: opened.targets_NK[rows] for name, rows in of_source.items() if rows.any()}
    return label_sections(numbers, by_source, folder)


def _samples(config: Config, opened: Opened, folder: FigureFolder, rejects: list[Reject]) -> list[Section]:
    cfg, source = config.explore, opened.samples
    assert source is not None
    drawn = draw_samples(opened.targets_NK, cfg.samples_per_class, seed=cfg.seed)
    if not drawn:
        drawn = {None: draw_images(opened.source_N, UNLABELLED_SAMPLES, seed=cfg.seed).tolist()}
    rows = np.unique(np.concatenate(list(drawn.values())))
    with console.progress("samples", len(rows)) as show:
        images, bad = read_samples(source, rows, on_progress=show)
    rejects += bad
    where = pa.array(rows)
    ids = dict(zip(rows.tolist(), opened.image_ids.take(where).to_pylist(), strict=True))
    labels = dict(zip(rows.tolist(), opened.labels.take(where).to_pylist(), strict=True))
    counts = opened.targets_NK.sum(axis=0, dtype=np.int64).tolist()
    return sample_sections(drawn, images, ids, labels, counts, channels=source.channels, folder=folder)


def _intensities(
    config: Config, opened: Opened, folder: FigureFolder, rejects: list[Reject], result: dict[str, Any]
) -> list[Section]:
    source = opened.pixels
    assert source is not None
    rows = draw_images(opened.source_N, config.explore.num_images, seed=config.explore.seed)
    with console.progress("intensities", len(rows)) as show:
        pixels = measure(source, rows, opened.source_N, on_progress=show)
    rejects += pixels.rejects
    if not pixels.counts_CL:
        return []
    result["intensities"] = intensity_rows(pixels, opened.names, source.channels)
    return pixel_sections(pixels, opened.names, channels=source.channels, image_size=source.image_size, folder=folder)


def _say_classes(numbers: LabelNumbers) -> None:
    per_image = ", ".join(f"{number}: {images:,}" for number, images in numbers.per_image.items())
    console.say(f"images  {numbers.num_images:,} with labels, by their number of classes: {per_image}")
    console.say("class  name                              images    share     alone  most often with")
    for k, name in enumerate(CLASS_NAMES):
        count, partner = int(numbers.counts_K[k]), int(numbers.partner_K[k])
        with_it = f"{partner} {CLASS_NAMES[partner]}" if partner >= 0 else ""
        share = count / numbers.num_images
        console.say(f"{k:5d}  {name:<32}{count:8,}  {share:7.2%}  {int(numbers.alone_K[k]):8,}  {with_it}".rstrip())


def _next_command(config: Config) -> str:
    cfg = config.data
    if cfg.shards:
        words = ["train", f"data.shards={cfg.shards}"]
    elif cfg.images:
        words = ["duplicates", f"data.images={cfg.images}"]
        words += [f"data.labels={cfg.labels}"] if cfg.labels else []
        words += [f"data.extra={','.join(cfg.extra)}"] if cfg.extra else []
    else:
        words = ["split", f"data.labels={cfg.labels}", "split.output=split.csv"]
    return shlex.join(["hpa-ray", *words])
