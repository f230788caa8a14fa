"""The row contracts of every table that is written, and what one read of images gives."""

from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpa_ray.labels import NUM_CLASSES

# B images, C stains, S side in px

ID_CHARACTERS = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,199}"
"""Ids become file names, and cells of csv files and pages: no separators, no quotes, no control characters, and first
a letter or a digit, so that they are no hidden files, no options and no formulas of a spreadsheet."""

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
        ("labels", LABELS),  # predicted
        ("model", pa.string()),
        ("thresholds", pa.list_(pa.float32(), NUM_CLASSES)),
        ("truth", LABELS),  # null where not known
    ]
)
EMBEDDING_ROW = pa.schema([("image_id", pa.string()), ("truth", LABELS), ("embedding", pa.list_(pa.float32()))])
"""What the last layer of a model sees of an image."""
MAP_ROW = pa.schema([*EMBEDDING_ROW, ("map_x", pa.float32()), ("map_y", pa.float32())])
"""The same, with the image's place on a map."""
NEIGHBOR_ROW = pa.schema(
    [
        ("image_id", pa.string()),
        ("neighbor_id", pa.list_(pa.string())),  # of the training part, the nearest first
        ("similarity", pa.list_(pa.float32())),  # cosine of the embeddings
        ("labels", pa.list_(LABELS)),  # true labels of each neighbour
        ("neighbor_labels", LABELS),  # what the neighbours vote for: a second opinion beside the model's
    ]
)
"""The training images that a model sees as most like an image."""
GALLERY_ROW = pa.schema(
    [
        ("image_id", pa.string()),
        ("kind", pa.string()),  # best, worst, surprising, label_error
        ("class", pa.int8()),  # the one the image is an example of
        ("probability", pa.float32()),  # of that class
        ("threshold", pa.float32()),
        ("truth", LABELS),
        ("labels", LABELS),  # predicted
        ("picture", pa.binary()),  # JPEG: stains merged, each stain, where the model looked, side by side
    ]
)
"""An image that says something about a model, and how it looks."""


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


def are_ids(column: "pa.Array | pa.ChunkedArray") -> np.ndarray:
    """(N,) bool: which texts can be Ids."""
    return np.asarray(pc.match_substring_regex(column, f"^{ID_CHARACTERS}$").fill_null(False))


def rejected_table(rejects: list[Reject]) -> pa.Table:
    return pa.Table.from_pylist([reject._asdict() for reject in rejects], schema=REJECTED_ROW)
