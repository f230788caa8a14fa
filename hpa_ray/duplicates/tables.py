"""What was found -> groups.csv, pairs.csv and the counts that are told. Before: duplicates/find. After: cli, page."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from hpa_ray.duplicates.find import Found
from hpa_ray.labels import format_labels

# N images, C stains, P pairs


@dataclass(frozen=True)
class Report:
    """Found duplicates with the names and labels of the images, which are the rows of `table`, sorted by image id."""

    found: Found
    table: pa.Table  # schema.MANIFEST_ROW
    rows_N: np.ndarray  # int64: where the source of pixels has them
    channels: tuple[str, ...]
    max_distance: int

    def __post_init__(self) -> None:
        ids = self.image_ids
        assert all(a <= b for a, b in pairwise(ids)), "rows not sorted: names of groups would vary"

    @property
    def image_ids(self) -> list[str]:
        return list(self.table["image_id"].to_pylist())

    @property
    def source_N(self) -> np.ndarray:
        return np.asarray(self.table["source"].to_numpy())

    def label_codes(self) -> tuple[np.ndarray, list[str]]:
        """(N,) int64 number of each image's label set, -1 where it is not known, and the sets as in a label table."""
        texts = [
            None if labels is None else format_labels(sorted(labels)) for labels in self.table["labels"].to_pylist()
        ]
        coded = pa.array(texts, pa.string()).dictionary_encode()
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return codes, coded.dictionary.to_pylist()

    def contradicting_P(self) -> np.ndarray:
        """(P,) bool: the labels of both are known, and they differ."""
        codes, _ = self.label_codes()
        one, other = codes[self.found.a_P], codes[self.found.b_P]
        return np.asarray((one != other) & (one >= 0) & (other >= 0))

    def across_P(self) -> np.ndarray:
        """(P,) bool: the two are of different sources."""
        return np.asarray(self.source_N[self.found.a_P] != self.source_N[self.found.b_P])

    def counts(self) -> dict[str, int]:
        """Images, pairs and groups; of the groups also those with contradicting labels and with several sources."""
        found, (codes, _) = self.found, self.label_codes()
        grouped = np.flatnonzero(found.group_sizes_N > 1)
        group = found.group_N[grouped]
        return {
            "num_images": self.table.num_rows,
            "num_compared": found.num_compared,
            "num_pairs": found.num_pairs,
            "num_groups": len(np.unique(group)),
            "num_grouped": len(grouped),
            "largest_group": int(found.group_sizes_N.max(initial=1)),
            "num_contradicting": _with_several(group, codes[grouped]),
            "num_across": _with_several(group, self.source_N[grouped].astype(np.int64)),
        }


def _with_several(group: np.ndarray, values: np.ndarray) -> int:
    """Groups in which more than one of the values (those below 0 left out) occurs."""
    known = values >= 0
    different = np.unique(np.stack([group[known], values[known]]), axis=1)
    return int((np.unique(different[0], return_counts=True)[1] > 1).sum())


def groups_csv(report: Report) -> str:
    """Id,group of every image that has a duplicate; a group is named after its first Id."""
    ids = report.image_ids
    rows = np.flatnonzero(report.found.group_sizes_N > 1)
    lines = sorted((ids[report.found.group_N[row]], ids[row]) for row in rows)
    return "".join(f"{image_id},{group}\n" for group, image_id in [("group", "Id"), *lines])


def pairs_csv(report: Report) -> str:
    """A row per listed pair: bits that differ in each stain (empty: says nothing), labels, numbers of the sources."""
    ids, found, (codes, sets) = report.image_ids, report.found, report.label_codes()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    distances = [f"distance_{stain}" for stain in report.channels]
    writer.writerow(["a", "b", *distances, "labels_a", "labels_b", "same_labels", "source_a", "source_b"])
    source_N = report.source_N
    for a, b, bits in zip(found.a_P.tolist(), found.b_P.tolist(), found.distances_PC.tolist(), strict=True):
        known = codes[a] >= 0 and codes[b] >= 0
        same = ("yes" if codes[a] == codes[b] else "no") if known else ""
        labels = [sets[code] if code >= 0 else "" for code in (codes[a], codes[b])]
        told: Sequence[int | str] = ["" if bit < 0 else bit for bit in bits]
        writer.writerow([ids[a], ids[b], *told, *labels, same, source_N[a], source_N[b]])
    return text.getvalue()
