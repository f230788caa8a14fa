"""The row contracts of every table that is written, and what one read of images gives."""

from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from hpa_ray.labels import NUM_CLASSES

# B images, C stains, S side in px

LABELS = pa.list_(pa.int8())

MANIFEST_ROW = pa.schema(
    [
        ("image_id", pa.string()),
        ("source", pa.int8()),  # 0: data.images; 1 and on: data.extra, in its order
        ("extension", pa.dictionary(pa.int8(), pa.string())),  # of the image's files
        ("labels", LABELS),  # null where not known
    ]
)
REJECTED_ROW = pa.schema([("image_id", pa.string()), ("file", pa.string()), ("reason", pa.string())])
PREDICTION_ROW = pa.schema(
    [
        ("image_id", pa.string()),
        ("probabilities", pa.list_(pa.float32(), NUM_CLASSES)),
        ("labels", LABELS),
        ("model", pa.string()),
    ]
)


def shard_row(num_channels: int, image_size: int) -> pa.Schema:
    """One image of a shard: its id and its (C, S, S) uint8 pixels, stain by stain, row by row."""
    return pa.schema([("image_id", pa.string()), ("image", pa.binary(num_channels * image_size**2))])


class Reject(NamedTuple):
    """An image that is left out. `row` is its row in the manifest, -1 if it never got there."""

    row: int
    image_id: str
    file: str
    reason: str


class Images(NamedTuple):
    """What a source gives for some manifest rows, in their order, the rejected ones left out."""

    rows_B: np.ndarray  # int64
    pixels_BCSS: np.ndarray  # uint8
    rejects: list[Reject]


class Source(Protocol):
    """Where pixels come from: image files or shards. Small enough to be sent to every worker."""

    @property
    def image_size(self) -> int: ...

    @property
    def channels(self) -> tuple[str, ...]: ...

    def read(self, rows: np.ndarray) -> Images:
        """Pixels of the given manifest rows. Raises InputError naming a file that can not be used."""
        ...


def rejected_table(rejects: list[Reject]) -> pa.Table:
    return pa.Table.from_pylist([reject._asdict() for reject in rejects], schema=REJECTED_ROW)
