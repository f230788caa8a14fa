"""One small Arrow table with a row per image: order, splits, sampling and resume act on it; pixels are touched last."""

from hpa_ray.manifest.build import Folder, Manifest, build_manifest, check_ceiling, list_folder, problem_lines
from hpa_ray.manifest.split import classes_missing, parse_parts, split_rows
from hpa_ray.manifest.tables import LabelTable, read_ids, read_label_table, read_split_table, write_split_table

__all__ = [
    "Folder",
    "LabelTable",
    "Manifest",
    "build_manifest",
    "check_ceiling",
    "classes_missing",
    "list_folder",
    "parse_parts",
    "problem_lines",
    "read_ids",
    "read_label_table",
    "read_split_table",
    "split_rows",
    "write_split_table",
]
