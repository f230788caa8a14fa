"""The files of a run folder -> values that can be relied on. Before: checkpoint, contents. After: run_page, compare.

Every file may be missing, and then what it would tell is left out; one that is there and can not be used is named.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config.loader import yaml_reason
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.report.contents import (
    PARTS,
    Analysis,
    DataFacts,
    Environment,
    Line,
    Part,
    Place,
    Rule,
    RunFiles,
    Shown,
    Tree,
    is_number,
)
from hpa_ray.schema import GALLERY_ROW
from hpa_ray.storage import read_bytes, read_parquet


def kind_of(uri: str) -> str:
    """run, crossval or study. Raises InputError if the folder is none of them."""
    folder = RunFolder(uri)
    if _bytes(folder, "space.yaml") is not None:
        return "study"
    summary = _json(folder, "summary.json") or {}
    if summary.get("kind") == "crossval":
        return "crossval"
    if not folder.exists() and not summary:
        raise InputError(
            f"report.run = {folder.uri}: no run folder (it has no config.yaml) - name one that train wrote"
        )
    return "run"


def read_run(uri: str) -> RunFiles:
    """Raises InputError, one line that names the file, for one that can not be used; never for a missing one."""
    folder = RunFolder(uri)
    summary = _summary(folder)
    parts = {name: part for name in PARTS if (part := _part(folder, name)) is not None}
    main = next(iter(parts), "val")
    config = _yaml(folder, "config.yaml")
    return RunFiles(
        uri=folder.uri,
        name=str((config.get("run") or {}).get("name") or folder.uri.rstrip("/").rsplit("/", 1)[-1]),
        config=config,
        summary=summary,
        lines=_lines(folder),
        parts=parts,
        environment=_model(folder, "environment.json", Environment),
        **_rules(folder),
        analysis=_model(folder, f"analysis_{main}.json", Analysis),
        gallery=_gallery(folder, f"gallery_{main}.parquet"),
        place=_place(folder, f"embeddings_{main}.parquet"),
        data=_model(folder, "data.json", DataFacts),
        rejects=_rejects(folder),
        figures={
            name: content
            for name in ("augmented", "layers")
            if (content := _bytes(folder, "figures", f"{name}.png")) is not None and content.startswith(b"\x89PNG")
        },
    )


def _damaged(folder: RunFolder, name: str, reason: str) -> InputError:
    return InputError(f"{folder.path(name)}: can not be used ({' '.join(reason.split())[:160]}) - mend or delete it")


def _bytes(folder: RunFolder, *names: str) -> bytes | None:
    try:
        return read_bytes(folder.path(*names))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        raise _damaged(folder, "/".join(names), "it is a folder") from error


def _json(folder: RunFolder, name: str) -> Tree | None:
    content = _bytes(folder, name)
    if content is None:
        return None
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, name, f"no JSON: {error}") from error
    if not isinstance(tree, dict):
        raise _damaged(folder, name, f"it holds a {type(tree).__name__}, no table of values")
    return tree


def _model(folder: RunFolder, name: str, kind: "type[Any]") -> Any:
    tree = _json(folder, name)
    if tree is None:
        return None
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _damaged(folder, name, f"{where}: {first['msg']}") from error


def _yaml(folder: RunFolder, name: str) -> Tree:
    content = _bytes(folder, name)
    if content is None:
        return {}
    try:
        tree = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(folder, name, f"no YAML: {yaml_reason(error)}") from error
    if not isinstance(tree, dict) or not all(isinstance(section, dict) for section in tree.values()):
        raise _damaged(folder, name, "no sections of keys")
    return tree


def _summary(folder: RunFolder) -> Tree:
    """summary.json, with intervals in any case. Raises InputError where these are no pairs of numbers."""
    tree = _json(folder, "summary.json") or {}
    intervals = tree.get("intervals") or {}
    try:
        kept = {name: pair for name, pair in intervals.items() if pair is not None and None not in pair}
        return tree | {"intervals": INTERVALS.validate_python(kept)}
    except (ValidationError, AttributeError, TypeError) as error:
        raise _damaged(folder, "summary.json", "intervals: not names with two numbers each") from error


INTERVALS = TypeAdapter(dict[str, tuple[float, float]], config=ConfigDict(allow_inf_nan=False))


def _lines(folder: RunFolder) -> list[Line]:
    """Of each epoch what is a number."""
    lines = folder.read_metrics()
    for line in lines:
        if not is_number(line.get("epoch")):
            raise _damaged(folder, "metrics.jsonl", "a line has no epoch")
    return [{name: value for name, value in line.items() if is_number(value)} for line in lines]


def _rules(folder: RunFolder) -> dict[str, Any]:
    tree = _json(folder, "thresholds.json") or {}
    stored = tree.get("stored")
    rules = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            try:
                rules[name] = Rule.model_validate(value)
            except ValidationError as error:
                raise _damaged(folder, "thresholds.json", f"{name}: {error.errors()[0]['msg']}") from error
    return {"rules": rules, "stored_rule": stored if isinstance(stored, str) else None}


def _table(folder: RunFolder, name: str, columns: Sequence[str]) -> pa.Table | None:
    content = _bytes(folder, name)
    if content is None:
        return None
    try:
        table = read_parquet(content)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(folder, name, str(error)) from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise _damaged(folder, name, f"no column {missing[0]}")
    return table


def _part(folder: RunFolder, part: str) -> Part | None:
    """None without predictions, or with none of any image."""
    name = f"predictions_{part}.parquet"
    table = _table(folder, name, ("image_id", "probabilities", "labels"))
    if table is None or not table.num_rows:
        return None
    table = table.sort_by("image_id")
    try:
        probability_NK = _matrix(table["probabilities"])
        if not (np.isfinite(probability_NK).all() and (probability_NK >= 0).all() and (probability_NK <= 1).all()):
            raise ValueError("a probability is not within 0 and 1")
        predicted_NK = _hot(table["labels"])
        known = "truth" in table.column_names and not table["truth"].null_count
        target_NK = _hot(table["truth"]) if known else None
        has = "thresholds" in table.column_names and not table["thresholds"].null_count
        threshold_K = _matrix(table["thresholds"].slice(0, 1))[0] if has else np.full(NUM_CLASSES, np.nan)
        ids = [str(one) for one in table["image_id"].to_pylist()]
    except (ValueError, IndexError, TypeError, pa.ArrowException) as error:
        raise _damaged(folder, name, str(error)) from error
    classes = _classes(folder, "per_class.csv" if part == "val" else f"per_class_{part}.csv")
    return Part(part, ids, probability_NK, predicted_NK, target_NK, threshold_K, classes)


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    lists = column.combine_chunks()
    if lists.null_count or not pc.all(pc.equal(pc.list_value_length(lists), NUM_CLASSES)).as_py():
        raise ValueError(f"{NUM_CLASSES} numbers an image are expected")
    numbers: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers.reshape(len(lists), NUM_CLASSES)


def _hot(column: pa.ChunkedArray) -> np.ndarray:
    hot_NK = np.zeros((len(column), NUM_CLASSES), bool)
    for row, labels in enumerate(column.to_pylist()):
        if min(labels, default=0) < 0:
            raise ValueError(f"{min(labels)} is no class number")
        hot_NK[row, labels] = True
    return hot_NK


def _classes(folder: RunFolder, name: str) -> dict[str, np.ndarray]:
    content = _bytes(folder, name)
    if content is None:
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        if [row["class"] for row in rows] != [str(k) for k in range(NUM_CLASSES)]:
            raise ValueError(f"not a row for each of {NUM_CLASSES} classes")
        names = [column for column in rows[0] if column not in ("class", "name")]
        return {column: np.array([float(row[column] or "nan") for row in rows]) for column in names}
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise _damaged(folder, name, str(error)) from error


def _gallery(folder: RunFolder, name: str) -> list[Shown]:
    table = _table(folder, name, GALLERY_ROW.names)
    if table is None:
        return []
    try:
        return [_shown(row) for row in table.to_pylist()]
    except (ValueError, TypeError) as error:
        raise _damaged(folder, name, str(error)) from error


def _shown(row: Mapping[str, Any]) -> Shown:
    labels, truth = _class_numbers(row["labels"] or ()), row["truth"]
    (of,) = _class_numbers([row["class"]])
    return Shown(
        str(row["image_id"]),
        str(row["kind"]),
        of,
        float(row["probability"]),
        float(row["threshold"]),
        None if truth is None else _class_numbers(truth),
        labels,
        bytes(row["picture"]),
    )


def _class_numbers(values: Sequence[Any]) -> tuple[int, ...]:
    numbers = tuple(int(value) for value in values)
    if not all(0 <= number < NUM_CLASSES for number in numbers):
        raise ValueError(f"{numbers} are no class numbers")
    return numbers


def _place(folder: RunFolder, name: str) -> Place | None:
    """None without a map."""
    table = _table(folder, name, ("image_id",))
    if table is None or not {"map_x", "map_y", "truth"} <= set(table.column_names) or not table.num_rows:
        return None
    try:
        at_N2 = np.stack([np.array(table[column].to_pylist(), np.float64) for column in ("map_x", "map_y")], axis=1)
        truth = [list(_class_numbers(labels or ())) for labels in table["truth"].to_pylist()]
        if not np.isfinite(at_N2).all():
            raise ValueError("a place on the map is not finite")
    except (ValueError, TypeError) as error:
        raise _damaged(folder, name, str(error)) from error
    return Place(at_N2, truth)


def _rejects(folder: RunFolder) -> list[tuple[str, str, str]] | None:
    table = _table(folder, "rejected.parquet", ("image_id", "file", "reason"))
    if table is None:
        return None
    return [(str(row["image_id"]), str(row["file"]), str(row["reason"])) for row in table.to_pylist()]
