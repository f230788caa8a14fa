"""The training images that a model sees as most like an image, and what they vote for. Before: predict, analysis.

Retrieval in the space of a network's features named the rare classes of the 2018 competition's winner (Bestfitting,
first place: nearest neighbours in a metric space found the images of classes with a handful of examples). Here it is a
second opinion from the classifier's own last features; the model's labels stay as they are.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hpa_ray.analysis.neighbors import nearest
from hpa_ray.checkpoint.results import class_lists
from hpa_ray.config import Config
from hpa_ray.manifest import multi_hot_column
from hpa_ray.predict import Ensemble, Given, infer
from hpa_ray.progress import console
from hpa_ray.schema import EMBEDDING_ROW, NEIGHBOR_ROW
from hpa_ray.storage import exists, join, read_bytes, read_parquet, write_parquet
from hpa_ray.stream import check_rejects, open_data

FILE = "neighbors_train.parquet"
MODEL, SETTINGS = b"model", b"settings"

# Q queries, N training images, F features, K neighbours, C classes


@dataclass(frozen=True)
class TrainingEmbeddings:
    ids: list[str]
    target_NC: np.ndarray  # uint8
    embedding_NF: np.ndarray  # float32

    def neighbors(self, table: pa.Table, count: int) -> pa.Table:
        """Images by schema.EMBEDDING_ROW -> schema.NEIGHBOR_ROW. An image of the training part is not its own."""
        ids = table["image_id"].to_pylist()
        if not ids:
            return NEIGHBOR_ROW.empty_table()
        position_QK, similarity_QK = nearest(embeddings_of(table), self.embedding_NF, k=count + 1)
        columns: dict[str, list[object]] = {name: [] for name in NEIGHBOR_ROW.names}
        for image_id, position_K, similarity_K in zip(ids, position_QK, similarity_QK, strict=True):
            kept = [place for place, row in enumerate(position_K) if self.ids[row] != image_id][:count]
            rows, similarities = position_K[kept], similarity_K[kept]
            columns["image_id"].append(image_id)
            columns["neighbor_id"].append([self.ids[row] for row in rows])
            columns["similarity"].append(similarities)
            columns["labels"].append(class_lists(self.target_NC[rows]))
            columns["neighbor_labels"].append(voted(self.target_NC[rows], similarities))
        return pa.table(columns, schema=NEIGHBOR_ROW)


def voted(target_KC: np.ndarray, similarity_K: np.ndarray) -> list[int]:
    """The classes that neighbours with half of the whole similarity have; where there are none, the one with most.

    A neighbour on the other side (a negative similarity) has no vote; without any vote all neighbours count alike.
    """
    if not len(target_KC):
        return []
    weight_K = np.maximum(similarity_K.astype(np.float64), 0)
    weight_K = weight_K if weight_K.any() else np.ones(len(weight_K))
    share_C = weight_K @ target_KC / weight_K.sum()
    chosen = np.flatnonzero(share_C >= 0.5)
    return chosen.tolist() if len(chosen) else [int(share_C.argmax())]


def embeddings_of(table: pa.Table) -> np.ndarray:
    """(N, F) float32 of the column `embedding`."""
    column = table["embedding"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(), np.float32).reshape(len(column), -1 if len(column) else 0)


def training_embeddings(own: Config, config: Config, ensemble: Ensemble, folder: str) -> TrainingEmbeddings:
    """Of the training part of a model's own run (its configuration `own`), worked out once for its folder.

    Raises InputError where the run's data can not be read.
    """
    uri = join(folder, FILE)
    member = ensemble.members[0]
    wanted = {MODEL: member.checksum.encode(), SETTINGS: _settings(own, ensemble).encode()}
    table = _stored(uri, wanted)
    if table is None:
        table = _worked_out(own, config, ensemble)
        try:
            write_parquet(uri, table.replace_schema_metadata(wanted))
        except OSError as error:
            console.say(f"note: the embeddings of the training part can not be kept in {folder} ({error.strerror})")
    return TrainingEmbeddings(
        table["image_id"].to_pylist(), multi_hot_column(table["truth"].combine_chunks()), embeddings_of(table)
    )


def _settings(own: Config, ensemble: Ensemble) -> str:
    data = own.data
    where = [data.shards, data.images, data.labels, *data.extra, data.split, str(data.fold), own.split.parts]
    facts = (where, own.split.seed, data.sample_fraction, ensemble.cfg.tta, ensemble.cfg.precision)
    return hashlib.sha256(repr(facts).encode()).hexdigest()  # addresses may hold signatures


def _stored(uri: str, wanted: dict[bytes, bytes]) -> pa.Table | None:
    """What an earlier command has stored, if it is of the same model and data."""
    if not exists(uri):
        return None
    try:
        table = read_parquet(read_bytes(uri))
        found = table.schema.metadata or {}
        return table.cast(EMBEDDING_ROW) if all(found.get(key) == value for key, value in wanted.items()) else None
    except (pa.ArrowException, OSError, ValueError):  # damaged: it is made anew
        return None


def _worked_out(own: Config, config: Config, ensemble: Ensemble) -> pa.Table:
    data = open_data(own)
    rows = data.parts["train"]
    show: Callable[[int], None]
    with console.progress("embed training images", len(rows)) as show:
        found = infer(
            Given(ensemble, data.source_N, data.matching, embeddings=True),
            data.source,
            rows,
            batch_size=config.predict.batch_size,
            num_workers=config.predict.num_workers,
            on_progress=show,
            on_rejects=lambda rejects: check_rejects(own, data, rejects),
        )
    truth = class_lists(data.targets_NK[found.rows_N])
    embedding = pa.array(list(found.embeddings_NF), EMBEDDING_ROW.field("embedding").type)
    columns = {"image_id": data.ids(found.rows_N), "truth": truth, "embedding": embedding}
    return pa.table(columns, schema=EMBEDDING_ROW)
