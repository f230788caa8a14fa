"""What a `prepare` under way keeps beside the shards, so that a stopped one goes on. Before: storage. After: prepare.

A plan says whose shards these are; a finished shard leaves a part file. Both go when the index is there.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hpa_ray.errors import InputError
from hpa_ray.output import names_in, remove_unfinished
from hpa_ray.shards.seal import is_intact, sealed
from hpa_ray.storage import join, read_bytes, read_many, remove, remove_empty_folder, write_json

KEY = "prepare.output"
PLAN_FILE = "plan.json"
PARTS = "parts"


def part_uri(output: str, number: int) -> str:
    return join(output, PARTS, _part_file(number))


def start_or_resume(output: str, folders: Iterable[str], plan: dict[str, Any]) -> None:
    names = names_in(KEY, output)
    remove_unfinished(KEY, [output, join(output, PARTS), *folders])
    if PLAN_FILE in names:
        try:
            found = json.loads(read_bytes(join(output, PLAN_FILE)))["fingerprint"]
        except (ValueError, TypeError, LookupError, RecursionError):
            found = "damaged"
        if found != plan["fingerprint"]:
            raise InputError(
                f"{output}: holds an unfinished prepare of other images or settings - "
                "choose another folder or delete it"
            )
        return
    for folder in dict.fromkeys([output, *folders]):
        foreign = sorted(name for name in names_in(KEY, folder) if not name.endswith(".tmp"))
        if foreign:
            raise InputError(f"{KEY} = {folder}: holds other files ({foreign[0]!r}) - give an empty or new folder")
    write_json(join(output, PLAN_FILE), plan)


def write_part(output: str, part: Mapping[str, Any]) -> None:
    write_json(part_uri(output, part["number"]), sealed(part))


def _part_file(number: int) -> str:
    return f"shard-{number:05d}.json"


def finished_parts(output: str, sizes: Mapping[int, str], numbers: range) -> dict[int, dict[str, Any]]:
    """What an earlier run has finished: parts whose shards are there and of the size that they were written with."""
    noted = names_in(KEY, join(output, PARTS))
    found = {size: names_in(KEY, folder) for size, folder in sizes.items()}
    parts = {}
    for content in read_many([part_uri(output, number) for number in numbers if _part_file(number) in noted]):
        try:
            if isinstance(content, OSError):
                raise content
            part = json.loads(content)
            if not is_intact(part):
                raise ValueError("damaged")
            entries = {size: part["sizes"][str(size)] for size in sizes}
            if all(found[size].get(entry["file"]) == entry["bytes"] for size, entry in entries.items()):
                parts[int(part["number"])] = part
        except (ValueError, TypeError, LookupError, RecursionError):  # not as it was written: done again
            continue
    return parts


def clean(output: str, folders: Iterable[str]) -> None:
    """Take away what only a `prepare` under way needs."""
    remove_unfinished(KEY, [output, *folders])
    remove([join(output, PARTS, name) for name in names_in(KEY, join(output, PARTS))] + [join(output, PLAN_FILE)])
    remove_empty_folder(join(output, PARTS))
