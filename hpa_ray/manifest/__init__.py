"""One small Arrow table with a row per image: order, splits, sampling and resume act on it; pixels are touched last."""

from hpa_ray.manifest.assign import LEFT_OUT, assign_parts, part_names
from hpa_ray.manifest.build import Manifest, build_manifest, check_ceiling, file_of, multi_hot_column, problem_lines
from hpa_ray.manifest.folder import Folder, folder_of, list_folder
from hpa_ray.manifest.join import ImageSet, check_extra, image_sets, join_tables, open_images
from hpa_ray.manifest.split import classes_missing, deal_extra, parse_parts, split_rows
from hpa_ray.manifest.tables import (
    GroupTable,
    LabelTable,
    SplitTable,
    open_groups,
    read_group_table,
    read_ids,
    read_label_table,
    read_split_table,
    write_split_table,
)

__all__ = [
    "LEFT_OUT",
    "Folder",
    "GroupTable",
    "ImageSet",
    "LabelTable",
    "Manifest",
    "SplitTable",
    "assign_parts",
    "build_manifest",
    "check_ceiling",
    "check_extra",
    "classes_missing",
    "deal_extra",
    "file_of",
    "folder_of",
    "image_sets",
    "join_tables",
    "list_folder",
    "multi_hot_column",
    "open_groups",
    "open_images",
    "parse_parts",
    "part_names",
    "problem_lines",
    "read_group_table",
    "read_ids",
    "read_label_table",
    "read_split_table",
    "split_rows",
    "write_split_table",
]
