"""From what was typed to a configuration with absolute paths, and the embedded atlas where no data is given."""

import os
from pathlib import Path
from typing import Any

from hpa_ray import __version__, storage
from hpa_ray.channels import STAINS
from hpa_ray.cli.main import Invocation
from hpa_ray.config import Config, load_config
from hpa_ray.errors import InputError
from hpa_ray.ingest import prepare
from hpa_ray.ingest.plan import PLAN_IMAGES, Plan
from hpa_ray.manifest import Manifest, open_images
from hpa_ray.progress import console
from hpa_ray.storage import absolute, join
from hpa_ray.synth import DRAWING, draw_label_sets, write_atlas

EMBEDDED = "embedded"
PATHS = {
    "data": ("images", "labels", "shards", "split", "groups"),
    "synth": ("output", "labels"),
    "fetch": ("output", "labels"),
    "check": ("output",),
    "explore": ("output",),
    "duplicates": ("output",),
    "split": ("output",),
    "prepare": ("output",),
    "bench": ("output",),
    "run": ("storage",),
    "evaluate": ("run", "output"),
    "analyze": ("run", "output", "out_of_fold"),
    "predict": ("run", "output", "submission"),
    "export": ("run", "output"),
    "report": ("output",),
}
"""Every key that is a path: made absolute at once, because Ray workers run in other folders."""


def home() -> Path:
    """Where things go for which the user named no place: $HPA_RAY_HOME, else ~/hpa_ray."""
    return Path(os.environ.get("HPA_RAY_HOME") or Path.home() / "hpa_ray").absolute()


def resolve(invocation: Invocation, *, base: Config | None = None) -> Config:
    """The configuration of a verb; the recipe `embedded` is its start when neither data nor a file is named."""
    words, recipe, file = invocation.words, invocation.recipe, invocation.file
    config = load_config(words, recipe=recipe, file=file, base=base)
    if base is None and recipe is None and file is None and not has_data(config):
        config = load_config(words, recipe=EMBEDDED)
    changes: dict[str, Any] = {}
    for section, names in PATHS.items():
        values = getattr(config, section)
        given: dict[str, Any] = {}
        for name in names:
            value = getattr(values, name)
            if isinstance(value, tuple):
                given[name] = tuple(_path(f"{section}.{name}", one) for one in value)
            elif value is not None:
                given[name] = _path(f"{section}.{name}", value)
        changes[section] = values.model_copy(update=given)
    weights = config.model.weights
    if weights and weights.endswith((".pth", ".pt", ".safetensors")):  # else the name of a library's
        changes["model"] = config.model.model_copy(update={"weights": _path("model.weights", weights)})
    config = config.model_copy(update=changes)
    _check_together(config)
    storage.configure(config.storage.settings())
    return config


def _check_together(config: Config) -> None:
    """Raises InputError for keys that do nothing without others."""
    data = config.data
    problems = []
    if data.extra and not data.images and not data.shards:
        problems.append("data.extra joins further sources to those of data.images=FOLDER - give that too")
    if data.fold is not None and not data.split:
        problems.append(
            f"data.fold = {data.fold} needs data.split=CSV, a table of folds "
            "(`hpa-ray split split.parts='5 folds' split.output=CSV` writes one)"
        )
    if problems:
        raise InputError(*problems)


def _path(key: str, value: str) -> str:
    try:
        possible = b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise InputError(f"{key} = {value!r} - no file can have this name")
    return absolute(value)


def has_data(config: Config) -> bool:
    return bool(config.data.images or config.data.labels or config.data.shards)


def with_atlas(config: Config) -> Config:
    """The configuration with data.images and data.labels set to the embedded atlas, which is drawn if need be."""
    cfg = config.synth
    num_images = cfg.num_images or 1500
    folder = home() / "atlas" / f"{num_images}x{cfg.image_size}px-seed{cfg.seed}-v{__version__}.{DRAWING}"
    if not (folder / "train.csv").exists():
        console.say(f"no data given: drawing the embedded synthetic atlas of {num_images} images in {folder}")
        label_sets = draw_label_sets(num_images, seed=cfg.seed)
        num_workers = cfg.num_workers if cfg.num_workers is not None else os.cpu_count() or 1
        with console.progress("synth", num_images) as show:
            write_atlas(
                folder, label_sets, image_size=cfg.image_size, seed=cfg.seed, num_workers=num_workers, on_progress=show
            )
    else:
        console.say(f"no data given: using the embedded synthetic atlas in {folder}")
    data = config.data.model_copy(update={"images": str(folder / "train"), "labels": str(folder / "train.csv")})
    return config.model_copy(update={"data": data})


def with_atlas_shards(config: Config) -> Config:
    """The configuration with data.shards set to the prepared embedded atlas."""
    with_images = with_atlas(config)
    data = with_images.data
    assert data.images is not None
    name = f"{Path(data.images).parent.name}-{data.image_size}px-seed{config.prepare.seed}"
    all_stains = data.model_copy(update={"channels": STAINS})  # training picks those it wants
    output = str(home() / "shards" / name)
    # without Ray in the training there should be none before it
    num_workers = 0 if config.train.num_workers == 0 else config.prepare.num_workers
    one_size = with_images.model_copy(
        update={"data": all_stains, "prepare": config.prepare.model_copy(update={"sizes": ()})}
    )
    prepare_images(one_size, output, num_workers=num_workers)
    kept = config.data.model_copy(update={"images": None, "labels": None, "shards": output})
    return config.model_copy(update={"data": kept})


def prepare_images(config: Config, output: str, *, num_workers: int | None) -> dict[str, object]:
    """Write data.images and data.labels, joined with data.extra, as shards. Raises InputError."""
    cfg = config.data
    manifest = open_labelled(config, "prepare")
    sizes = shard_folders(config, output)
    with console.progress("prepare", manifest.table.num_rows) as show:
        indexes = prepare(
            manifest,
            output=output,
            channels=cfg.channels,
            sizes=sizes,
            seed=config.prepare.seed,
            shard_bytes=config.prepare.shard_bytes,
            white_level=cfg.white_level,
            on_error=cfg.on_error,
            max_rejected=cfg.max_rejected,
            num_workers=num_workers,
            on_progress=lambda done, total: show(done),
        )
    for index, folder in zip(indexes, sizes.values(), strict=True):
        num_bytes = sum(entry.bytes for entry in index.shards)
        console.say(
            f"{index.num_images} images of {len(index.channels)} x {index.image_size} x {index.image_size} px in "
            f"{len(index.shards)} shards, {num_bytes / 2**20:,.0f} MiB, {index.num_rejected} left out: {folder}"
        )
    return {
        "shards": next(iter(sizes.values())),
        "sizes": {str(size): folder for size, folder in sizes.items()},
        "num_images": indexes[0].num_images,
        "num_rejected": indexes[0].num_rejected,
        "num_shards": sum(len(index.shards) for index in indexes),
        "bytes": sum(entry.bytes for index in indexes for entry in index.shards),
    }


def open_labelled(config: Config, verb: str) -> Manifest:
    """The images of all sources with their labels; what is left out is said."""
    if not (config.data.images and config.data.labels):
        raise InputError(f"{verb} needs data.images=FOLDER and data.labels=CSV")
    manifest = open_images(config.data)
    for note in manifest.notes:
        console.say(f"note: {note}")
    return manifest


def shard_folders(config: Config, output: str) -> dict[int, str]:
    """Side in px -> folder: the output itself for one size, folders below it for several."""
    sizes = config.prepare.sizes
    if not sizes:
        return {config.data.image_size: output}
    return {size: join(output, f"{size}px") for size in sorted(set(sizes))}


def plan_lines(found: Plan) -> list[str]:
    """What a `prepare` would write and how long it would take, for the screen."""
    sides = " and ".join(f"{size} px" for size in found.sizes)
    gib = found.num_bytes / 2**30
    lines = [f"prepare would write {found.num_images:,} images at {sides}: {found.num_shards:,} shards, {gib:,.2f} GiB"]
    if found.seconds_per_image is not None:
        cpus = os.cpu_count() or 1
        minutes = found.num_images * found.seconds_per_image / 60
        lines.append(
            f"time: {found.seconds_per_image * 1000:.0f} ms an image on one CPU (measured on {PLAN_IMAGES} or fewer), "
            f"{minutes:,.1f} min in all, {minutes / cpus:,.1f} min on the {cpus} CPUs of this machine"
        )
    if found.free_bytes is not None:
        enough = "" if found.free_bytes >= found.num_bytes else " - NOT ENOUGH"
        lines.append(f"disk: {found.free_bytes / 2**30:,.2f} GiB free{enough}")
    return lines
