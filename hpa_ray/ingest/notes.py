"""What a `prepare` under way keeps beside the shards, so that a stopped one goes on. Before: storage. After: prepare.

A plan says whose shards these are; a finished shard leaves a part file. Both go when the index is there.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hpa_ray.errors import InputError
from hpa_ray.storage import join, list_files, read_bytes, read_many, remove, remove_empty_folder, write_json

PLAN_FILE = "plan.json"
PARTS = "parts"


def part_uri(output: str, number: int) -> str:
    return join(output, PARTS, _part_file(number))


def start_or_resume(output: str, folders: Iterable[str], plan: dict[str, Any]) -> None:
    names = names_in(output)
    _remove_unfinished([output, join(output, PARTS), *folders])
    if PLAN_FILE in names:
        try:
            found = json.loads(read_bytes(join(output, PLAN_FILE)))["fingerprint"]
        except (ValueError, TypeError, LookupError):
            found = "damaged"
        if found != plan["fingerprint"]:
            raise InputError(
                f"{output}: holds an unfinished prepare of other images or settings - "
                "choose another folder or delete it"
            )
        return
    for folder in dict.fromkeys([output, *folders]):
        foreign = sorted(name for name in _names(folder) if not name.endswith(".tmp"))
        if foreign:
            raise InputError(
                f"prepare.output = {folder}: holds other files ({foreign[0]!r}) - give an empty or new folder"
            )
    write_json(join(output, PLAN_FILE), plan)


def names_in(output: str) -> dict[str, int]:
    """What is in the folder to write to, nothing if it is not there yet. Raises InputError if it can be no folder."""
    try:
        return _names(output)
    except NotADirectoryError as error:
        raise InputError(f"prepare.output = {output}: is a file - give a folder") from error


def _remove_unfinished(folders: Iterable[str]) -> None:
    """Take away what a killed process was about to write."""
    for folder in dict.fromkeys(folders):
        remove([join(folder, name) for name in _names(folder) if name.endswith(".tmp")])


def _part_file(number: int) -> str:
    return f"shard-{number:05d}.json"


def finished_parts(output: str, sizes: Mapping[int, str], numbers: range) -> dict[int, dict[str, Any]]:
    """What an earlier run has finished: parts whose shards are there and of the size that they were written with."""
    noted = _names(join(output, PARTS))
    found = {size: _names(folder) for size, folder in sizes.items()}
    parts = {}
    for content in read_many([part_uri(output, number) for number in numbers if _part_file(number) in noted]):
        try:
            if isinstance(content, OSError):
                raise content
            part = json.loads(content)
            entries = {size: part["sizes"][str(size)] for size in sizes}
            if all(found[size].get(entry["file"]) == entry["bytes"] for size, entry in entries.items()):
                parts[int(part["number"])] = part
        except (ValueError, TypeError, LookupError):  # not as it was written: done again
            continue
    return parts


def _names(folder: str) -> dict[str, int]:
    try:
        return list_files(folder)
    except FileNotFoundError:
        return {}


def clean(output: str, folders: Iterable[str]) -> None:
    """Take away what only a `prepare` under way needs."""
    _remove_unfinished([output, *folders])
    remove([join(output, PARTS, name) for name in _names(join(output, PARTS))] + [join(output, PLAN_FILE)])
    remove_empty_folder(join(output, PARTS))
