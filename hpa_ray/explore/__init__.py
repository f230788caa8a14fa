"""What a data set looks like before anything is trained on it. Before: manifest, ingest, figures. After: cli."""

from hpa_ray.explore.folder import FigureFolder
from hpa_ray.explore.image_page import intensity_rows, pixel_sections, sample_sections
from hpa_ray.explore.label_page import label_sections
from hpa_ray.explore.labels import LabelNumbers, label_numbers
from hpa_ray.explore.opened import Opened, open_everything
from hpa_ray.explore.pixels import PixelNumbers, draw_images, draw_samples, measure, read_samples

__all__ = [
    "FigureFolder",
    "LabelNumbers",
    "Opened",
    "PixelNumbers",
    "draw_images",
    "draw_samples",
    "intensity_rows",
    "label_numbers",
    "label_sections",
    "measure",
    "open_everything",
    "pixel_sections",
    "read_samples",
    "sample_sections",
]
