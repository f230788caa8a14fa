"""The user's images, whatever their form -> a source of pixels and its manifest. Before: manifest, shards.

After: stream, explore, duplicates.
"""

from typing import NamedTuple

import pyarrow as pa

from hpa_ray.config import DataConfig
from hpa_ray.errors import InputError
from hpa_ray.ingest.reader import ImageSource
from hpa_ray.manifest import open_images
from hpa_ray.schema import Reject
from hpa_ray.shards import ShardSource, open_shards


class OpenedSource(NamedTuple):
    source: ImageSource | ShardSource
    table: pa.Table  # schema.MANIFEST_ROW
    names: tuple[str, ...]  # of the places the images came from, by number of the source
    rejects: list[Reject]
    notes: list[str]


def open_source(cfg: DataConfig) -> OpenedSource:
    """The shards, or the image files of all sources at data.image_size; labels are null where they are not known.

    Raises InputError for what can not be opened, and if both or neither are named.
    """
    if cfg.shards:
        if cfg.images or cfg.extra:
            other = "data.images" if cfg.images else "data.extra"
            raise InputError(f"data.shards and {other} are both set - shards already hold the images, give one of them")
        shards, table = open_shards(cfg.shards, cfg.channels)
        names = tuple(entry.name for entry in shards.index.sources) or (cfg.shards,)
        return OpenedSource(shards, table, names, [], [])
    manifest = open_images(cfg)
    files = ImageSource(manifest.folders, manifest.table, cfg.channels, cfg.image_size, cfg.white_level)
    return OpenedSource(files, manifest.table, manifest.folders, manifest.rejects, manifest.notes)
