"""The class vocabulary: a name and version for the numbering, class names, and multi-hot coding.

Public code for HPA images uses incompatible numberings, so `VOCABULARY` travels with shards, checkpoints and
predictions, and a reader refuses any other.
"""

from collections.abc import Iterable, Sequence

import numpy as np

VOCABULARY = "hpa-28"

# (name, images of the class among the 31,072 of the 2018 competition's training set), by class number
CLASS_TABLE: tuple[tuple[str, int], ...] = (
    ("Nucleoplasm", 12885),
    ("Nuclear membrane", 1254),
    ("Nucleoli", 3621),
    ("Nucleoli fibrillar center", 1561),
    ("Nuclear speckles", 1858),
    ("Nuclear bodies", 2513),
    ("Endoplasmic reticulum", 1008),
    ("Golgi apparatus", 2822),
    ("Peroxisomes", 53),
    ("Endosomes", 45),
    ("Lysosomes", 28),
    ("Intermediate filaments", 1093),
    ("Actin filaments", 688),
    ("Focal adhesion sites", 537),
    ("Microtubules", 1066),
    ("Microtubule ends", 21),
    ("Cytokinetic bridge", 530),
    ("Mitotic spindle", 210),
    ("Microtubule organizing center", 902),
    ("Centrosome", 1482),
    ("Lipid droplets", 172),
    ("Plasma membrane", 3777),
    ("Cell junctions", 802),
    ("Mitochondria", 2965),
    ("Aggresome", 322),
    ("Cytosol", 8228),
    ("Cytoplasmic bodies", 328),
    ("Rods & rings", 11),
)
CLASS_NAMES = tuple(name for name, _ in CLASS_TABLE)
NUM_CLASSES = len(CLASS_NAMES)


def parse_labels(text: str) -> list[int]:
    """Class numbers of a csv cell such as "25 0", ascending, each once.

    Raises ValueError with the offending word when a word is no class number.
    """
    labels = set()
    for word in text.split():
        if not (word.isascii() and word.isdigit() and len(word) < 9 and int(word) < NUM_CLASSES):
            raise ValueError(f"{word[:60]!r} is no class number (0 to {NUM_CLASSES - 1})")
        labels.add(int(word))
    return sorted(labels)


def format_labels(labels: Iterable[int]) -> str:
    """The csv form of class numbers: "0 25"."""
    return " ".join(str(int(k)) for k in labels)


def multi_hot(label_sets: Sequence[Sequence[int]]) -> np.ndarray:
    """Label sets -> (N, 28) uint8 with a 1 at each class of the image."""
    targets = np.zeros((len(label_sets), NUM_CLASSES), dtype=np.uint8)
    for row, labels in enumerate(label_sets):
        targets[row, list(labels)] = 1
    return targets
