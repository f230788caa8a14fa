"""What sections of study.html share: charts, values as words, the order of classes. After: the other page_ modules."""

import dataclasses
from typing import TYPE_CHECKING

from hpa_ray.explore.folder import FigureFolder
from hpa_ray.labels import CLASS_TABLE
from hpa_ray.page import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

DIFFERENCE = "+.3f"


def chart(folder: FigureFolder, name: str, figure: "Drawing", caption: str, *, alt: str) -> Figure:
    return dataclasses.replace(folder.chart(name, figure, caption), alt=alt)


def value_word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def classes_by_count(num_classes: int) -> list[int]:
    return sorted(range(num_classes), key=lambda k: -CLASS_TABLE[k][1])


def epochs_word(number: int) -> str:
    return f"{number} {'epoch' if number == 1 else 'epochs'}"
