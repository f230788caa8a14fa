"""A prediction that goes on where it was killed: chunks of images, each stored whole or not at all. Before: infer.

OUTPUT/parts/ holds identity.json, what the parts are predictions of, and a file per finished chunk with its predictions
and, in the file's metadata, the images that could not be used. It is removed when the results have been joined.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.checkpoint.results import prediction_table
from hpa_ray.errors import InputError
from hpa_ray.output import disk_full_told, names_in, remove_unfinished
from hpa_ray.predict.infer import Found, Given, together
from hpa_ray.predict.submission import filled_labels
from hpa_ray.redact import redacted
from hpa_ray.schema import PREDICTION_ROW, Reject
from hpa_ray.storage import join, read_bytes, read_parquet, remove, remove_empty_folder, write_json, write_parquet
from hpa_ray.stream.schedule import Item

IDENTITY = "identity.json"
REJECTS = b"rejects"
EMBEDDING = pa.field("embedding", pa.list_(pa.float32()))
KEY = "predict.output"


@dataclass(frozen=True)
class Chunks:
    """The wanted of the chunks that rows are cut into, each in batches of its own: what a chunk gives does not depend
    on which others are missing.
    """

    rows: np.ndarray  # manifest rows, ascending
    chunk_images: int
    batch_size: int
    wanted: tuple[int, ...]  # numbers of chunks, ascending

    @property
    def num_chunks(self) -> int:
        return -(-len(self.rows) // self.chunk_images)

    def rows_of(self, chunk: int) -> np.ndarray:
        return self.rows[chunk * self.chunk_images : (chunk + 1) * self.chunk_images]

    def batches_of(self, chunk: int) -> int:
        return -(-len(self.rows_of(chunk)) // self.batch_size)

    def __len__(self) -> int:
        """Batches; all wanted chunks but the last have the same number."""
        if not self.wanted:
            return 0
        return (len(self.wanted) - 1) * self.batches_of(self.wanted[0]) + self.batches_of(self.wanted[-1])

    def __getitem__(self, number: int) -> Item:
        """A batch; `epoch` is the number of its chunk."""
        place, step = divmod(number, self.batches_of(self.wanted[0]))
        chunk = self.wanted[place]
        rows = self.rows_of(chunk)[step * self.batch_size : (step + 1) * self.batch_size]
        return Item("val", chunk, step, rows, np.zeros(len(rows), np.int64), len(rows))


class Parts:
    """The parts in a folder. Raises InputError if they are of another prediction."""

    def __init__(self, output: str, identity: dict[str, Any]) -> None:
        self.output, self.folder = output, join(output, "parts")
        self.identity = redacted(identity)
        names = names_in(KEY, self.folder)
        self._begun = IDENTITY in names
        if self._begun:
            self._check_same()
        remove_unfinished(KEY, [output, self.folder])
        self.finished = {int(name[5:10]) for name in names if name.endswith(".parquet")} if self._begun else set()

    def _check_same(self) -> None:
        advice = f"go on with those settings, choose another {KEY}, or delete that folder"
        try:
            before = dict(json.loads(read_bytes(join(self.folder, IDENTITY))))
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.folder}/{IDENTITY}: damaged - delete that folder, or {advice}") from error
        now = json.loads(json.dumps(self.identity))
        differ = [
            name
            if {len(str(before.get(name))) > 60, len(str(now.get(name))) > 60} - {False}
            else f"{name}: {before.get(name)} there, {now.get(name)} here"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if differ:
            raise InputError(
                f"{self.folder}: holds a begun prediction with other settings ({'; '.join(differ)}) - {advice}"
            )

    def path(self, chunk: int) -> str:
        return join(self.folder, f"part-{chunk:05d}.parquet")

    def write(self, chunk: int, table: pa.Table, rejects: Sequence[Reject]) -> None:
        metadata = {REJECTS: json.dumps([list(reject) for reject in rejects])}
        with disk_full_told(KEY, self.output):
            if not self._begun:
                write_json(join(self.folder, IDENTITY), self.identity)
                self._begun = True
            write_parquet(self.path(chunk), table.replace_schema_metadata(metadata))
        self.finished.add(chunk)

    def read(self, chunk: int) -> tuple[pa.Table, list[Reject]]:
        """A stored part. Raises InputError if it is damaged."""
        try:
            stored = read_parquet(read_bytes(self.path(chunk)))
            rejects = [Reject(*reject) for reject in json.loads(stored.schema.metadata[REJECTS])]
            fields = [*PREDICTION_ROW, EMBEDDING] if EMBEDDING.name in stored.column_names else [*PREDICTION_ROW]
            return stored.cast(pa.schema(fields)), rejects
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"{self.path(chunk)}: damaged - delete it and run the same command again, it is made anew"
            ) from error

    def tables(self) -> Iterator[pa.Table]:
        for chunk in sorted(self.finished):
            yield self.read(chunk)[0]

    def remove(self) -> None:
        """The identity last: parts without it are nothing that could be gone on with."""
        remove([self.path(chunk) for chunk in self.finished])
        remove([join(self.folder, IDENTITY)])
        remove_empty_folder(self.folder)


def chunk_table(given: Given, ids: Sequence[str], found: list[Found]) -> tuple[pa.Table, list[Reject]]:
    """What the batches of a chunk gave, as the table of its part. ids: of all manifest rows."""
    whole, ensemble = together(found), given.ensemble
    labels = filled_labels(whole.chosen_NK, whole.probabilities_NK)
    names = [ids[row] for row in whole.rows_N]
    table = prediction_table(names, whole.probabilities_NK, labels, ensemble.name, thresholds=ensemble.thresholds_K)
    if given.embeddings:
        lengths = np.full(len(names) + 1, whole.embeddings_NF.shape[1], np.int32)
        lengths[0] = 0
        column = pa.ListArray.from_arrays(lengths.cumsum(dtype=np.int32), pa.array(whole.embeddings_NF.ravel()))
        table = table.append_column(EMBEDDING, column)
    return table, whole.rejects


def identity_of(given: Given, ids: Sequence[str], chunks: Chunks, **settings: Any) -> dict[str, Any]:
    """What two starts of a prediction have in common if the second can go on with the parts of the first."""
    digest = hashlib.sha256()
    for row in chunks.rows:
        digest.update(f"{row} {ids[row]}\n".encode())
    return {
        "models": [member.checksum for member in given.ensemble.members],
        "thresholds": given.ensemble.thresholds_K.tolist(),
        "weights": list(given.ensemble.weight_M),
        "name": given.ensemble.name,
        "num_images": len(chunks.rows),
        "ids": digest.hexdigest(),
        "chunk_images": chunks.chunk_images,
        "batch_size": chunks.batch_size,
        "embeddings": given.embeddings,
        **{f"inference.{name}": value for name, value in given.ensemble.cfg.model_dump(mode="json").items()},
        **settings,
    }
