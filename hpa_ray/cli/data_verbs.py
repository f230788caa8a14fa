"""`synth`, `split`, `prepare`: from nothing, or from a user's files, to data that can be trained on."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import (
    has_data,
    home,
    open_labelled,
    plan_lines,
    prepare_images,
    resolve,
    shard_folders,
    with_atlas,
)
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.ingest.plan import plan
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.manifest import (
    LEFT_OUT,
    assign_parts,
    classes_missing,
    multi_hot_column,
    open_groups,
    parse_parts,
    part_names,
    problem_lines,
    read_label_table,
    write_split_table,
)
from hpa_ray.progress import console
from hpa_ray.storage import write_bytes
from hpa_ray.synth import draw_label_sets, sample_label_sets, write_atlas


def synth(invocation: Invocation) -> dict[str, Any]:
    cfg = resolve(invocation, base=Config()).synth
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


def split(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    if config.data.labels is None:
        config = with_atlas(config)
    cfg = config.split
    ids, targets, source_N = _labelled_ids(config)
    parts = parse_parts(cfg.parts)
    folds = "fold" in cfg.parts or len(parts) > 3
    names = part_names(parts, folds=folds)
    column = "fold" if folds else "split"
    groups = open_groups(config.data.groups, ids)
    numbers = assign_parts(
        ids,
        targets,
        parts,
        seed=cfg.seed,
        source_N=source_N,
        groups=groups,
        extra=cfg.extra,
        train=len(parts) if folds else 0,  # images of further sources train in every fold
    )
    output = cfg.output or str(home() / "split.csv")
    kept = numbers != LEFT_OUT
    words = pa.array([*names, "train"]).take(pa.array(numbers[kept]))
    write_split_table(output, ids.filter(pa.array(kept)), words, column=column)
    shown = [*names, "train"] if folds and (numbers == len(parts)).any() else names
    sizes = np.bincount(numbers[kept], minlength=len(shown)).tolist()
    counts = class_counts_by_part(targets, numbers, shown)
    _say_shares(counts)
    for number, classes in classes_missing(targets, numbers, len(parts)).items():
        listed = ", ".join(f"{k} {CLASS_NAMES[k]}" for k in classes)
        console.say(f"{column} {names[number]} has no image of: {listed}")
    if left_out := int((~kept).sum()):
        console.say(f"{left_out:,} images of data.extra show what is in another part than train and are left out")
    if groups is not None:
        console.say(f"images of a group lie in one part each (data.groups = {config.data.groups})")
    figure = _write_figure(output, counts, sizes)
    console.say(f"written: {output} ({', '.join(f'{n} {s:,}' for n, s in zip(shown, sizes, strict=True))}), {figure}")
    return {"split": output, "sizes": dict(zip(shown, sizes, strict=True)), "figure": figure, "num_left_out": left_out}


def _labelled_ids(config: Config) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Ids, (N, 28) targets and source of every image: of the tables alone, or of the joined sources."""
    if config.data.extra:
        table = open_labelled(config, "split").table
        labels = table["labels"].combine_chunks()
        return table["image_id"].combine_chunks(), multi_hot_column(labels), table["source"].to_numpy()
    assert config.data.labels is not None
    labels_table = read_label_table(config.data.labels)
    if labels_table.problems:
        raise InputError(*labels_table.problems)
    ids = labels_table.image_ids
    return ids, multi_hot_column(labels_table.labels), np.zeros(len(ids), np.int8)


def class_counts_by_part(targets: np.ndarray, numbers: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Part -> (28,) images of each class in it."""
    return {name: targets[numbers == number].sum(axis=0, dtype=np.int64) for number, name in enumerate(names)}


def _say_shares(counts: dict[str, np.ndarray]) -> None:
    console.say("class  name                            " + "".join(f"{name:>10}" for name in counts))
    for k, class_name in enumerate(CLASS_NAMES):
        console.say(f"{k:5d}  {class_name:<32}" + "".join(f"{part[k]:10,}" for part in counts.values()))


def _write_figure(output: str, counts: dict[str, np.ndarray], sizes: list[int]) -> str:
    from hpa_ray.figures import class_shares, figure_png  # matplotlib takes a second to import

    figure = output.removesuffix(".csv") + ".png"
    write_bytes(figure, figure_png(class_shares(counts, dict(zip(counts, sizes, strict=True)))))
    return figure


def prepare(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation)
    if not has_data(config):
        config = with_atlas(config)
    if config.prepare.output is None:
        raise InputError("prepare needs prepare.output=FOLDER")
    if invocation.dry_run or config.prepare.dry_run:
        return _plan(config, config.prepare.output)
    result = prepare_images(config, config.prepare.output, num_workers=config.prepare.num_workers)
    console.say(f"next: hpa-ray train data.shards={result['shards']}")
    return result


def _plan(config: Config, output: str) -> dict[str, Any]:
    cfg = config.data
    manifest = open_labelled(config, "prepare")
    if not manifest.table.num_rows:
        raise InputError(f"{cfg.images}: none of its images can be used - `hpa-ray check` tells why")
    sizes = list(shard_folders(config, output))
    found = plan(
        manifest,
        output=output,
        channels=cfg.channels,
        sizes=sizes,
        shard_bytes=config.prepare.shard_bytes,
        white_level=cfg.white_level,
    )
    for line in plan_lines(found):
        console.say(line)
    for line in problem_lines(manifest.folders[0], manifest.rejects):
        console.say(f"can not be used  {line}")
    console.say(f"nothing was written to {output}")
    return found._asdict() | {"output": output, "num_rejected": len(manifest.rejects), "dry_run": True}
