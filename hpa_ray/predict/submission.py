"""Probabilities -> label sets -> the competition's csv. Before: predict/infer."""

from collections.abc import Mapping, Sequence

import numpy as np

from hpa_ray.labels import format_labels
from hpa_ray.storage import write_bytes


def labels_of(probabilities_NK: np.ndarray, thresholds_K: np.ndarray) -> list[list[int]]:
    """Classes at or above their threshold; the most probable class where none is, so no image goes without."""
    return filled_labels(probabilities_NK >= thresholds_K, probabilities_NK)


def filled_labels(chosen_NK: np.ndarray, probabilities_NK: np.ndarray) -> list[list[int]]:
    """The chosen classes of every image; the most probable one where none is chosen."""
    filled_NK, empty_N = chosen_NK.copy(), ~chosen_NK.any(axis=1)
    filled_NK[empty_N, probabilities_NK[empty_N].argmax(axis=1)] = True
    return [np.flatnonzero(row).tolist() for row in filled_NK]


def write_submission(uri: str, image_ids: Sequence[str], labels: Mapping[str, Sequence[int]]) -> int:
    """`Id,Predicted` in the order of image_ids (the competition compares by position).

    An Id without labels gets the set predicted most often; returns how many there were. Cells are written as they
    are, without quotes and with no apostrophe before what a spreadsheet would take for a formula: Ids begin with a
    letter or a digit and hold no comma (schema.ID_CHARACTERS, wherever they come from), labels are digits.
    """
    texts = {image_id: format_labels(found) for image_id, found in labels.items() if len(found)}
    counts = np.unique(list(texts.values()), return_counts=True)
    fallback = str(counts[0][counts[1].argmax()]) if texts else "0"
    column = [texts.get(image_id, fallback) for image_id in image_ids]
    rows = zip(image_ids, column, strict=True)
    write_bytes(uri, "".join(f"{image_id},{text}\n" for image_id, text in [("Id", "Predicted"), *rows]).encode())
    return sum(image_id not in texts for image_id in image_ids)
