"""From what was typed to a configuration with absolute paths, and the embedded atlas where no data is given."""

import os
from pathlib import Path

from hpa_ray import __version__
from hpa_ray.channels import STAINS
from hpa_ray.cli.main import Invocation
from hpa_ray.config import Config, load_config
from hpa_ray.errors import InputError
from hpa_ray.ingest import prepare
from hpa_ray.manifest import build_manifest, list_folder, read_label_table
from hpa_ray.progress import console
from hpa_ray.storage import absolute
from hpa_ray.synth import draw_label_sets, write_atlas

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
    "run": ("storage",),
    "evaluate": ("run", "output"),
    "predict": ("run", "output", "submission"),
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
    changes = {}
    for section, names in PATHS.items():
        values = getattr(config, section)
        given = {}
        for name in names:
            if (value := getattr(values, name)) is not None:
                given[name] = _path(f"{section}.{name}", value)
        changes[section] = values.model_copy(update=given)
    return config.model_copy(update=changes)


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
    folder = home() / "atlas" / f"{num_images}x{cfg.image_size}px-seed{cfg.seed}-v{__version__}"
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
    prepare_images(with_images.model_copy(update={"data": all_stains}), output, num_workers=num_workers)
    kept = config.data.model_copy(update={"images": None, "labels": None, "shards": output})
    return config.model_copy(update={"data": kept})


def prepare_images(config: Config, output: str, *, num_workers: int | None) -> dict[str, object]:
    """Write data.images and data.labels as shards. Raises InputError."""
    cfg = config.data
    if not (cfg.images and cfg.labels):
        raise InputError("prepare needs data.images=FOLDER and data.labels=CSV")
    labels = read_label_table(cfg.labels)
    if labels.problems:
        raise InputError(*labels.problems)
    manifest = build_manifest(list_folder(cfg.images), labels, cfg.channels)
    if manifest.num_unlabelled:
        console.say(f"{manifest.num_unlabelled} images have no row in {cfg.labels} and are left out")
    with console.progress("prepare", manifest.table.num_rows) as show:
        index = prepare(
            manifest,
            images=cfg.images,
            output=output,
            channels=cfg.channels,
            image_size=cfg.image_size,
            seed=config.prepare.seed,
            shard_bytes=config.prepare.shard_bytes,
            on_error=cfg.on_error,
            max_rejected=cfg.max_rejected,
            num_workers=num_workers,
            on_progress=lambda done, total: show(done),
        )
    num_bytes = sum(entry.bytes for entry in index.shards)
    console.say(
        f"{index.num_images} images of {len(index.channels)} x {index.image_size} x {index.image_size} px in "
        f"{len(index.shards)} shards, {num_bytes / 2**20:,.0f} MiB, {index.num_rejected} left out: {output}"
    )
    return {
        "shards": output,
        "num_images": index.num_images,
        "num_rejected": index.num_rejected,
        "num_shards": len(index.shards),
        "bytes": num_bytes,
    }
