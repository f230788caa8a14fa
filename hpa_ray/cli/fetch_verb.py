"""`fetch`: images of rare classes from a web server, or with `fetch kaggle` the competition's own files."""

from typing import Any

import numpy as np

from hpa_ray.channels import STAINS
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import resolve
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.fetch import (
    Choice,
    Manners,
    Standing,
    choose,
    class_gains,
    download,
    fetch_competition,
    look,
    parse_address,
    parse_classes,
    source_of,
)
from hpa_ray.fetch.kaggle import explanation
from hpa_ray.known import TRAIN_IMAGES
from hpa_ray.manifest import read_label_table
from hpa_ray.progress import console

KAGGLE = "kaggle"


def fetch(invocation: Invocation) -> dict[str, Any]:
    if invocation.words[:1] == (KAGGLE,):
        kaggle = resolve(invocation._replace(words=invocation.words[1:]))
        return _kaggle(kaggle, dry_run=invocation.dry_run or kaggle.fetch.dry_run)
    config = resolve(invocation)
    cfg = config.fetch
    dry_run = invocation.dry_run or cfg.dry_run
    if cfg.labels is None:
        raise InputError("fetch needs fetch.labels=CSV, such as HPAv18RBGY_wodpl.csv (or `hpa-ray fetch kaggle`)")
    if cfg.output is None and not dry_run:
        raise InputError("fetch needs fetch.output=FOLDER")
    address = parse_address(cfg.url)
    classes = parse_classes(cfg.classes)
    table = read_label_table(cfg.labels)
    if table.problems:
        raise InputError(*table.problems)
    choice = choose(table, classes, cfg.limit)
    address.check_ids(choice.image_ids)
    source = source_of(cfg.labels, cfg.url)
    standing = look(cfg.output, choice, source)
    _say_plan(choice, standing, cfg.requests_per_s, address.url(choice.image_ids[0], "green"))
    if dry_run:
        _say_gains(choice.targets)
        console.say("dry run: nothing was downloaded")
        return _plan_json(choice, standing, cfg.requests_per_s)
    assert cfg.output is not None
    manners = Manners(cfg.requests_per_s, cfg.max_attempts, cfg.timeout_s)
    settings = {
        "labels": cfg.labels,
        **source,
        "classes": list(classes),
        "limit": cfg.limit,
        "requests_per_s": cfg.requests_per_s,
    }
    try:
        with console.progress("fetch", standing.num_images) as show:
            summary = download(
                choice,
                standing,
                labels=table,
                output=cfg.output,
                address=address,
                manners=manners,
                settings=settings,
                num_workers=cfg.num_workers,
                on_progress=show,
            )
    except KeyboardInterrupt:
        console.say(f"stopped; what has come is in {cfg.output}, and the same command goes on from there")
        raise
    _say_gains(summary.targets)
    for reject in summary.rejects[:5]:
        console.say(f"left out  {reject.file}: {reject.reason}")
    if len(summary.rejects) > 5:
        console.say(f"left out  and {len(summary.rejects) - 5:,} more, all in {cfg.output}/rejected.parquet")
    repeats = ", ".join(f"{count:,} for {kind}" for kind, count in sorted(summary.retries.items())) or "none"
    console.say(
        f"{summary.num_images:,} images in {summary.num_files:,} files, {summary.num_bytes / 2**20:,.1f} MiB, "
        f"{len(summary.rejects):,} left out, requests repeated: {repeats}"
    )
    console.say(f"next: add data.extra={cfg.output} to `hpa-ray prepare` or `hpa-ray train`")
    return {
        "output": cfg.output,
        "num_images": summary.num_images,
        "num_files": summary.num_files,
        "num_rejected": len(summary.rejects),
        "bytes": summary.num_bytes,
        "retries": summary.retries,
    }


def _say_plan(choice: Choice, standing: Standing, requests_per_s: float, example: str) -> None:
    there = len(choice.image_ids) - len(standing.missing)
    console.say(f"{standing.num_images:,} images chosen, such as {example}")
    if there:
        gone = standing.num_images - standing.num_complete - len(standing.missing)
        console.say(f"{standing.num_complete:,} are there already, {gone:,} the server does not have")
    basis = "like those that are there" if standing.is_measured else "an assumption"
    seconds = standing.num_files / requests_per_s
    console.say(
        f"to download: {len(standing.missing):,} images, {standing.num_files:,} files, "
        f"{standing.num_bytes / 2**20:,.0f} MiB at {standing.file_bytes / 1000:,.0f} kB a file ({basis}), "
        f"{_duration(seconds)} at {requests_per_s:g} requests per second"
    )


def _plan_json(choice: Choice, standing: Standing, requests_per_s: float) -> dict[str, Any]:
    return {
        "num_chosen": standing.num_images,
        "num_images": len(standing.missing),
        "num_files": standing.num_files,
        "bytes": standing.num_bytes,
        "seconds": standing.num_files / requests_per_s,
        "classes_gained": {gain.name: gain.gained for gain in class_gains(choice.targets)},
    }


def _say_gains(targets: np.ndarray) -> None:
    console.say("class  name                            competition   gained")
    for gain in class_gains(targets):
        console.say(f"{gain.number:5d}  {gain.name:<32}{gain.competition:11,}{gain.gained:9,}")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _kaggle(config: Config, *, dry_run: bool) -> dict[str, Any]:
    cfg = config.fetch
    if cfg.output is None:
        raise InputError("fetch kaggle needs fetch.output=FOLDER")
    if dry_run:
        for line in explanation(cfg.output):
            console.say(line)
        return {"output": cfg.output}
    try:
        found = fetch_competition(cfg.output, max_attempts=cfg.max_attempts, say=console.say)
    except KeyboardInterrupt:
        console.say(f"stopped; what has come is in {cfg.output}, and the same command goes on from there")
        raise
    console.say(f"{found.images}: {found.num_images:,} images; {found.labels}: {found.num_labelled:,} rows")
    if (found.num_images, found.num_labelled) != (TRAIN_IMAGES, TRAIN_IMAGES):
        console.say(
            f"expected {TRAIN_IMAGES:,} images of {len(STAINS)} files each: `hpa-ray check` tells what is missing"
        )
    console.say(f"next: hpa-ray check data.images={found.images} data.labels={found.labels}")
    return {"images": found.images, "labels": found.labels, "num_images": found.num_images}
