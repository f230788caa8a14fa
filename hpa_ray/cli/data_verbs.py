"""`synth`, `check`, `split`, `prepare`: from nothing, or from a user's files, to data that can be trained on."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from hpa_ray.check import Report, check_data
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import has_data, home, prepare_images, resolve, with_atlas
from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.manifest import (
    classes_missing,
    list_folder,
    parse_parts,
    problem_lines,
    read_label_table,
    split_rows,
    write_split_table,
)
from hpa_ray.manifest.build import multi_hot_column
from hpa_ray.progress import console
from hpa_ray.schema import rejected_table
from hpa_ray.storage import join, write_json, write_parquet
from hpa_ray.stream.data import PARTS
from hpa_ray.synth import draw_label_sets, sample_label_sets, write_atlas


def synth(invocation: Invocation) -> dict[str, Any]:
    cfg = resolve(invocation).synth
    if cfg.output is None:
        raise InputError("synth needs synth.output=FOLDER")
    image_ids = None
    if cfg.labels is None:
        label_sets = draw_label_sets(cfg.num_images or 1500, seed=cfg.seed)
    else:
        table = read_label_table(cfg.labels)
        if table.problems:
            raise InputError(*table.problems)
        given = table.labels.to_pylist()
        num_images = cfg.num_images or len(given)
        image_ids = table.image_ids.to_pylist() if num_images == len(given) else None
        label_sets = sample_label_sets(given, num_images, seed=cfg.seed)
    num_workers = cfg.num_workers if cfg.num_workers is not None else os.cpu_count() or 1
    with console.progress("synth", len(label_sets)) as show:
        write_atlas(
            Path(cfg.output),
            label_sets,
            image_size=cfg.image_size,
            seed=cfg.seed,
            image_ids=image_ids,
            num_workers=num_workers,
            on_progress=show,
        )
    console.say(
        f"{len(label_sets)} images of {cfg.image_size} px in {cfg.output}/train, labels in {cfg.output}/train.csv"
    )
    console.say(f"next: hpa-ray check data.images={cfg.output}/train data.labels={cfg.output}/train.csv")
    return {"images": f"{cfg.output}/train", "labels": f"{cfg.output}/train.csv", "num_images": len(label_sets)}


def check(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    if not has_data(config):
        config = with_atlas(config)
    cfg = config.data
    if cfg.images is None:
        raise InputError("check needs data.images=FOLDER (and data.labels=CSV, to check the labels too)")
    labels = None if cfg.labels is None else read_label_table(cfg.labels)
    folder = list_folder(cfg.images)
    with console.progress("check", len(folder.stains)) as show:
        report = check_data(
            cfg.images,
            folder,
            labels,
            channels=cfg.channels,
            decode=config.check.decode,
            num_workers=config.check.num_workers,
            on_progress=show,
        )
    _say_report(report, cfg.images, cfg.labels, cfg.image_size * cfg.image_size * len(cfg.channels))
    if config.check.output:
        write_json(join(config.check.output, "check.json"), report.as_json())
        write_parquet(join(config.check.output, "rejected.parquet"), rejected_table(report.rejects))
        console.say(f"written: {config.check.output}/check.json, {config.check.output}/rejected.parquet")
    if report.num_problems and (invocation.strict or config.check.strict):
        raise InputError(f"{report.num_problems} problems, listed above")
    return report.as_json()


def _say_report(report: Report, images: str, labels: str | None, image_bytes: int) -> None:
    say = console.say
    mib = report.num_bytes / 2**20
    say(f"images  {images}: {report.num_images:,} images in {report.num_files:,} files, {mib:,.1f} MiB")
    if labels is not None:
        say(f"labels  {labels}: {report.num_labelled:,} usable rows")
    if report.decoded and report.sizes_px:
        say(f"sizes   {', '.join(f'{size} px: {count:,}' for size, count in report.sizes_px.most_common(6))}")
    if report.mean:
        say(f"mean    {', '.join(f'{stain} {value:.4f}' for stain, value in report.mean.items())} (0 to 1)")
    if report.class_counts is not None and report.num_labelled:
        per_image = ", ".join(f"{count}: {images:,}" for count, images in sorted(report.labels_per_image.items()))
        say(f"labels per image  {per_image}")
        say("class  name                              images   share")
        for k, count in enumerate(report.class_counts):
            say(f"{k:5d}  {CLASS_NAMES[k]:<32}{count:8,}  {count / report.num_labelled:6.2%}")
    for problem in report.table_problems:
        say(f"problem  {problem}")
    for line in problem_lines(images, report.rejects, shown=20):
        say(f"problem  {line}")
    if report.num_unlabelled:
        say(f"problem  {report.num_unlabelled:,} images have no row in {labels}")
    if report.other_files:
        names = ", ".join(map(repr, report.other_files[:3]))
        say(f"problem  {len(report.other_files):,} files are not named <Id>_<color>.png: {names}")
    say(f"usable  {report.num_usable:,} images; as shards about {report.num_usable * image_bytes / 2**20:,.0f} MiB")
    say(f"problems  {report.num_problems:,}")


def split(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    if config.data.labels is None:
        config = with_atlas(config)
    cfg = config.split
    assert config.data.labels is not None
    table = read_label_table(config.data.labels)
    if table.problems:
        raise InputError(*table.problems)
    ids, targets = table.image_ids.to_pylist(), multi_hot_column(table.labels)
    parts = parse_parts(cfg.parts)
    folds = "fold" in cfg.parts
    names = [str(number) for number in range(len(parts))] if folds or len(parts) > 3 else list(PARTS[: len(parts)])
    column = "fold" if folds or len(parts) > 3 else "split"
    numbers = split_rows(targets, parts, seed=cfg.seed, keys=ids)
    output = cfg.output or str(home() / "split.csv")
    write_split_table(output, ids, [names[number] for number in numbers], column=column)
    sizes = np.bincount(numbers, minlength=len(parts)).tolist()
    _say_shares(targets, numbers, names)
    for number, classes in classes_missing(targets, numbers, len(parts)).items():
        if classes:
            listed = ", ".join(f"{k} {CLASS_NAMES[k]}" for k in classes)
            console.say(f"{column} {names[number]} has no image of: {listed}")
    console.say(f"written: {output} ({', '.join(f'{n} {s:,}' for n, s in zip(names, sizes, strict=True))})")
    return {"split": output, "sizes": dict(zip(names, sizes, strict=True))}


def _say_shares(targets: np.ndarray, numbers: np.ndarray, names: list[str]) -> None:
    console.say("class  name                            " + "".join(f"{name:>10}" for name in names))
    for k, class_name in enumerate(CLASS_NAMES):
        counts = np.bincount(numbers[targets[:, k] == 1], minlength=len(names))
        console.say(f"{k:5d}  {class_name:<32}" + "".join(f"{count:10,}" for count in counts))


def prepare(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    if not has_data(config):
        config = with_atlas(config)
    if config.prepare.output is None:
        raise InputError("prepare needs prepare.output=FOLDER")
    result = prepare_images(config, config.prepare.output, num_workers=config.prepare.num_workers)
    console.say(f"next: hpa-ray train data.shards={config.prepare.output}")
    return result
