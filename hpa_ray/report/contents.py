"""What a page takes from a run folder, as values with types. Before: schema. After: report/files, sections.

The pydantic classes are the contracts of the json files; a key that they do not know is passed over.
"""

import math
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES

# N images, K classes

Line = dict[str, float]
Tree = dict[str, Any]
PARTS = ("test", "oof", "val")
"""The part that a page is about is the first of them that is there: no choice of the run has seen it."""
PART_NAMES = {"test": "test part", "val": "validation part", "oof": "images out of fold"}


class Part(NamedTuple):
    """Predictions of one part, and its table of classes."""

    name: str
    ids: list[str]
    probability_NK: np.ndarray  # float64
    predicted_NK: np.ndarray  # bool, as the model with its thresholds decides
    target_NK: np.ndarray | None  # bool; None where the truth is not known
    threshold_K: np.ndarray
    classes: dict[str, np.ndarray]  # columns of the per-class csv, float64; empty without it


class Shown(NamedTuple):
    """An image of the gallery."""

    image_id: str
    kind: str
    of: int
    probability: float
    threshold: float
    truth: tuple[int, ...] | None
    labels: tuple[int, ...]
    picture: bytes


class Place(NamedTuple):
    """Images on a map."""

    at_N2: np.ndarray
    truth: list[list[int]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


ClassNumber = Annotated[int, Field(ge=0, lt=NUM_CLASSES)]


class Confusion(_Strict):
    missed: ClassNumber
    predicted: ClassNumber
    images: int
    share: float
    lift: float | None = None


class Neighbor(_Strict):
    image_id: str
    labels: list[ClassNumber]


class LabelError(_Strict):
    image_id: str
    of: ClassNumber = Field(alias="class")
    given: int
    probability: float
    score: float
    neighbors: list[Neighbor] = []


class Map(_Strict):
    method: str
    explained: list[float] | None = None


class Retrieval(_Strict):
    k: int
    precision_per_class: Annotated[list[float | None], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)]
    mean: float | None


class Analysis(_Strict):
    num_images: int
    map: Map | None = None
    confusions: list[Confusion] = []
    label_errors: list[LabelError] = []
    retrieval: Retrieval | None = None
    gradcam: str | None = None
    notes: list[str] = []


class Rule(_Strict):
    macro_f1: float
    macro_f1_low: float | None = None
    macro_f1_high: float | None = None
    micro_f1: float | None = None


class Environment(_Strict):
    python: str = ""
    platform: str = ""
    cpus: int | None = None
    gpus: list[str] = []
    packages: dict[str, str] = {}
    command: list[str] = []


class PartFacts(_Strict):
    images: int
    classes: Annotated[list[int], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)]


class DataFacts(_Strict):
    parts: dict[str, PartFacts]
    image_size: int | None = None
    notes: list[str] = []


class RunFiles(NamedTuple):
    """All that a page says of a run."""

    uri: str
    name: str
    config: Tree
    summary: Tree
    lines: list[Line]
    parts: dict[str, Part]
    environment: Environment | None
    rules: dict[str, Rule]
    stored_rule: str | None
    analysis: Analysis | None
    gallery: list[Shown]
    place: Place | None
    data: DataFacts | None
    rejects: list[tuple[str, str, str]] | None
    figures: dict[str, bytes]

    @property
    def main(self) -> str:
        """The part that the page is about: of predictions, else of the summary."""
        return next(
            (name for name in PARTS if name in self.parts), "test" if "test_macro_f1" in self.summary else "val"
        )

    def score(self, name: str, part: str | None = None) -> float | None:
        """A number of summary.json; `name` without `test_`. None where it is not there. Raises InputError."""
        key = self._key(name, part)
        value = self.summary.get(key)
        if value is None:
            return None
        if not is_number(value):
            raise InputError(f"{self.uri}/summary.json: {key} is {value!r:.60}, not a number - mend or delete it")
        return float(value)

    def interval(self, name: str, part: str | None = None) -> tuple[float, float] | None:
        found: tuple[float, float] | None = self.summary["intervals"].get(self._key(name, part))
        return found

    def _key(self, name: str, part: str | None) -> str:
        return f"test_{name}" if (part or self.main) == "test" else name


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
