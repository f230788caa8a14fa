"""Multi-hot labels -> the numbers a page of them shows. Before: manifest. After: explore/label_page."""

from typing import Any, NamedTuple

import numpy as np

from hpa_ray.figures.matrices import cooccurrence_counts, phi_coefficients
from hpa_ray.labels import CLASS_NAMES, CLASS_TABLE, NUM_CLASSES

# N images, K class


class LabelNumbers(NamedTuple):
    num_images: int
    counts_K: np.ndarray
    alone_K: np.ndarray  # images that have this class only
    partner_K: np.ndarray  # the class most often with it, -1 where it is always alone
    both_KK: np.ndarray
    phi_KK: np.ndarray
    per_image: dict[int, int]  # number of classes -> images
    sets: list[tuple[tuple[int, ...], int]]  # every distinct label set with its images, the commonest first

    @property
    def is_competition(self) -> bool:
        return list(self.counts_K) == [count for _, count in CLASS_TABLE]

    @property
    def imbalance(self) -> float | None:
        """Images of the commonest class for one of the rarest that has any."""
        present = self.counts_K[self.counts_K > 0]
        return float(present.max() / present.min()) if present.size else None

    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of classes that have a correlation, the strongest first."""
        found = [(i, j) for i in range(NUM_CLASSES) for j in range(i) if np.isfinite(self.phi_KK[i, j])]
        return [(j, i) for i, j in sorted(found, key=lambda pair: -abs(self.phi_KK[pair]))]

    def as_json(self) -> dict[str, Any]:
        phi = [[round(value, 4) if np.isfinite(value) else None for value in row] for row in self.phi_KK.tolist()]
        return {
            "num_images": self.num_images,
            "num_labels": int(self.counts_K.sum()),
            "classes": [
                {
                    "class": k,
                    "name": CLASS_NAMES[k],
                    "images": int(self.counts_K[k]),
                    "share": round(int(self.counts_K[k]) / max(self.num_images, 1), 6),
                    "alone": int(self.alone_K[k]),
                }
                for k in range(NUM_CLASSES)
            ],
            "labels_per_image": {str(number): images for number, images in self.per_image.items()},
            "imbalance": self.imbalance,
            "num_label_sets": len(self.sets),
            "label_sets": [{"labels": list(labels), "images": images} for labels, images in self.sets],
            "images_with_both": self.both_KK.tolist(),
            "phi": phi,
        }


def label_numbers(targets_NK: np.ndarray) -> LabelNumbers:
    per_image_N = targets_NK.sum(axis=1, dtype=np.int64)
    both_KK = cooccurrence_counts(targets_NK)
    others = both_KK - np.diag(np.diag(both_KK))
    numbers, images = np.unique(per_image_N, return_counts=True)
    masks = targets_NK.astype(np.int64) @ (1 << np.arange(NUM_CLASSES))
    distinct, how_many = np.unique(masks, return_counts=True)
    order = np.lexsort((distinct, -how_many))
    sets = [tuple(k for k in range(NUM_CLASSES) if mask >> k & 1) for mask in distinct[order].tolist()]
    return LabelNumbers(
        len(targets_NK),
        np.diag(both_KK).copy(),
        targets_NK[per_image_N == 1].sum(axis=0, dtype=np.int64),
        np.where(others.any(axis=1), others.argmax(axis=1), -1),
        both_KK,
        phi_coefficients(targets_NK),
        dict(zip(numbers.tolist(), images.tolist(), strict=True)),
        list(zip(sets, how_many[order].tolist(), strict=True)),
    )
