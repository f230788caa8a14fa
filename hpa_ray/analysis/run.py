"""One part of labelled data, as a model sees it -> the files of an analysis. Before: the other modules. After: cli.

N images of the part, M of them that are embedded, K classes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hpa_ray.analysis.confusions import Confusions, confusions, top_leanings, top_pairs
from hpa_ray.analysis.embed import Viewer
from hpa_ray.analysis.examples import Kind, examples
from hpa_ray.analysis.gallery import Shown, gallery
from hpa_ray.analysis.label_errors import Suspect, suspects
from hpa_ray.analysis.maps import Map, draw_map
from hpa_ray.analysis.neighbors import Neighbors, nearest, neighbor_shares, retrieval
from hpa_ray.analysis.seen import Seen, look, out_of_fold
from hpa_ray.checkpoint.model_file import ShippedModel
from hpa_ray.checkpoint.results import class_lists
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.schema import MAP_ROW
from hpa_ray.storage import write_bytes, write_parquet
from hpa_ray.stream import Data

SHOWN_NEIGHBORS = 3
"""Of a suspected label error, listed with their labels."""


def analyze(
    config: Config,
    shipped: ShippedModel,
    data: Data,
    rows: np.ndarray,
    *,
    part: str,
    folder: RunFolder,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Look at what the model makes of manifest rows.

    Writes gallery_<part>.parquet (schema.GALLERY_ROW), embeddings_<part>.parquet (schema.MAP_ROW), two figures,
    and analysis_<part>.json last, whose content is returned. Where the folder has no predictions of this model for the
    part, they are made and written as `evaluate` does. Of a part with more than analyze.max_images only so many are
    embedded: map, neighbours and label errors are of those, all else of the whole part.
    Raises InputError if no image can be used, or some can not and data.on_error does not allow it.
    """
    cfg, viewer = config.analyze, Viewer(shipped, data)
    elsewhere = out_of_fold(cfg.out_of_fold) if cfg.out_of_fold else {}
    seen = look(config, viewer, shipped, rows, part=part, folder=folder, on_progress=on_progress)
    rows_M, embedding_MF = seen.embedded.rows_N, seen.embedded.embedding_NF
    if not len(rows_M):
        raise InputError(f"analyze.part = {part}: none of its {len(rows)} images can be read")
    notes = []
    if len(rows_M) < len(seen.rows_N):
        notes.append(
            f"map, neighbours and label errors are of {len(rows_M):,} of the {len(seen.rows_N):,} images "
            "(analyze.max_images): of rare classes all, of the others a draw"
        )
    thresholds_K = np.asarray(shipped.card.thresholds)
    targets_NK, targets_MK = data.targets_NK[seen.rows_N], data.targets_NK[rows_M]
    confused = confusions(targets_NK, seen.probabilities_NK >= thresholds_K)
    near = nearest(embedding_MF, embedding_MF, k=cfg.neighbors, exclude_self=True)
    precision = retrieval(targets_MK, near.positions_QK)
    drawn = draw_map(embedding_MF, method=cfg.map, seed=config.run.seed)
    notes += [drawn.note] if drawn.note else []
    doubted = _label_errors(data, seen, near, elsewhere, notes, most=cfg.label_errors)

    chosen = examples(targets_NK, seen.probabilities_NK, thresholds_K, per_class=cfg.examples_per_class)
    places: list[tuple[int, Kind, int]] = [(int(seen.rows_N[one.position]), one.kind, one.of) for one in chosen]
    places += [(int(rows_M[one.position]), "label_error", one.of) for one in doubted]
    pictures, method = gallery(viewer, _shown(places, data, seen, thresholds_K), gradcam=cfg.gradcam)
    if method == "input gradient":
        notes.append(
            "the model has no map of features: its heat maps are |intensity x slope of the logit| of the input"
        )

    ids_M = data.ids(rows_M)
    result = {
        "part": part,
        "num_images": len(seen.rows_N),
        "model": shipped.card.run,
        "map": {"method": drawn.method, "explained": None if drawn.explained is None else list(drawn.explained)},
        "confusions": [pair._asdict() for pair in top_pairs(confused)],
        "leanings": [lean._asdict() for lean in top_leanings(targets_NK, seen.probabilities_NK)],
        "confusion_counts": confused.counts_KK.tolist(),
        "missed_per_class": confused.missed_K.tolist(),
        "label_errors": [_told(one, ids_M, near, targets_MK) for one in doubted],
        "retrieval": {
            "k": near.positions_QK.shape[1],
            "precision_per_class": [None if np.isnan(value) else float(value) for value in precision.precision_K],
            "mean": precision.mean,
        },
        "gradcam": method,
        "notes": notes,
    }
    write_parquet(folder.path(f"gallery_{part}.parquet"), pictures)
    write_parquet(folder.path(f"embeddings_{part}.parquet"), embedding_table(ids_M, targets_MK, embedding_MF, drawn))
    _draw_figures(folder, part, drawn, targets_MK, confused)
    folder.write_json(f"analysis_{part}.json", result)
    return result


def embedding_table(ids: Sequence[str], targets_MK: np.ndarray, embedding_MF: np.ndarray, drawn: Map) -> pa.Table:
    """Follows schema.MAP_ROW."""
    num, features = embedding_MF.shape
    offsets = pa.array(np.arange(num + 1) * features, pa.int32())
    columns = {
        "image_id": list(ids),
        "truth": class_lists(targets_MK),
        "embedding": pa.ListArray.from_arrays(offsets, pa.array(embedding_MF.astype(np.float32).ravel())),
        "map_x": drawn.points_N2[:, 0],
        "map_y": drawn.points_N2[:, 1],
    }
    return pa.Table.from_pydict(columns, schema=MAP_ROW)


def _label_errors(
    data: Data, seen: Seen, near: Neighbors, elsewhere: dict[str, np.ndarray], notes: list[str], *, most: int
) -> list[Suspect]:
    """Positions are among the M embedded images. Of those that were trained on only what a file of predictions by
    another model, such as that of another fold, says is used."""
    rows_M, probabilities_MK = seen.embedded.rows_N, seen.embedded.probabilities_NK.copy()
    usable_M = ~np.isin(rows_M, data.parts["train"])
    if elsewhere:
        known = [(m, elsewhere[image_id]) for m, image_id in enumerate(data.ids(rows_M)) if image_id in elsewhere]
        for m, probabilities_K in known:
            probabilities_MK[m], usable_M[m] = probabilities_K, True
        notes.append(f"label errors: the probabilities of {len(known):,} images are those of analyze.out_of_fold")
    if left_out := int((~usable_M).sum()):
        notes.append(
            f"label errors: {left_out:,} images were trained on and are left out, as a model repeats what it was told; "
            "analyze.out_of_fold=FILE takes the predictions of models that did not train on them"
        )
    targets_MK, positions = data.targets_NK[rows_M], np.flatnonzero(usable_M)
    shares_MK = neighbor_shares(targets_MK, near.positions_QK) if near.positions_QK.shape[1] else None
    found = suspects(
        targets_MK[positions],
        probabilities_MK[positions],
        None if shares_MK is None else shares_MK[positions],
        most=most,
    )
    return [one._replace(position=int(positions[one.position])) for one in found]


def _shown(places: Sequence[tuple[int, Kind, int]], data: Data, seen: Seen, thresholds_K: np.ndarray) -> list[Shown]:
    """With the probabilities and labels that the predictions of the part have."""
    at = np.searchsorted(seen.rows_N, [row for row, _, _ in places])
    return [
        Shown(
            row,
            kind,
            of,
            float(seen.probabilities_NK[n, of]),
            float(thresholds_K[of]),
            np.flatnonzero(data.targets_NK[row]).tolist(),
            np.flatnonzero(seen.probabilities_NK[n] >= thresholds_K).tolist(),
        )
        for n, (row, kind, of) in zip(at, places, strict=True)
    ]


def _told(one: Suspect, ids_M: Sequence[str], near: Neighbors, targets_MK: np.ndarray) -> dict[str, Any]:
    fields = {"image_id": ids_M[one.position], "class": one.of, "given": one.given}
    fields |= {"probability": one.probability, "score": one.score}
    around = near.positions_QK[one.position, :SHOWN_NEIGHBORS]
    labels = class_lists(targets_MK[around])
    return fields | {
        "neighbors": [{"image_id": ids_M[m], "labels": some} for m, some in zip(around, labels, strict=True)]
    }


def _draw_figures(folder: RunFolder, part: str, drawn: Map, targets_MK: np.ndarray, confused: Confusions) -> None:
    """figures/embedding_map_<part>.png and figures/confusions_<part>.png."""
    from hpa_ray import figures  # matplotlib takes half a second

    figure = figures.embedding_map(drawn.points_N2, targets_MK, method=drawn.method, explained=drawn.explained)
    write_bytes(folder.path("figures", f"embedding_map_{part}.png"), figures.figure_png(figure))
    figure = figures.confusion_heatmap(confused.counts_KK, confused.missed_K, confused.lift_KK)
    write_bytes(folder.path("figures", f"confusions_{part}.png"), figures.figure_png(figure))
