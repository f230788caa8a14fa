"""Sections -> one HTML file that needs nothing beside it: no network, no fonts, no scripts from elsewhere.

Before: page/sections. After: every verb that writes a page.
"""

import base64
import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hpa_ray import __version__
from hpa_ray.page.sections import Cell, Column, Figure, Gallery, Section, Table
from hpa_ray.progress import one_line
from hpa_ray.redact import redact

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).parent
USUAL_WIDTH_PX = 640
MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"RIFF", "webp"), (b"<?xml", "svg+xml"), (b"<svg", "svg+xml"))


def render_page(title: str, sections: Sequence[Section], *, subtitle: str = "", footer: str = "") -> str:
    """The page as text; write it with `.encode()`."""
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    html = _template().render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        footer=footer or f"hpa_ray {__version__}",
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        # the browser runs this script and no other, and loads nothing: names of files can do no harm
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return html.encode("utf-8", "backslashreplace").decode()  # names of files may hold bytes that are no UTF-8


@functools.cache
def _template() -> "jinja2.Template":
    import jinja2  # late: few commands write a page

    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_finalize
    )
    environment.filters |= {
        "kind": _kind,
        "data_uri": data_uri,
        "cells": _cells,
        "width_px": _width_px,
        "cell": _text,
        "paragraphs": _paragraphs,
        "choices": _choices,
    }
    return environment.get_template("page.html.jinja")


def data_uri(image: bytes) -> str:
    """A picture as an address that holds it. SVG too: in an <img> it can run nothing, and its ids are its own."""
    for magic, name in MAGIC:
        if image.startswith(magic):
            return f"data:image/{name};base64,{base64.b64encode(image).decode()}"
    raise ValueError(f"picture of an unknown format, it begins with {image[:8]!r}: expected SVG, PNG, JPEG or WebP")


def _width_px(figure: Figure) -> int:
    """How wide a figure is by itself, so that a phone does not shrink it until nothing can be read."""
    if figure.width_px is not None:
        return figure.width_px
    if figure.image.startswith(b"\x89PNG"):
        return int.from_bytes(figure.image[16:20], "big")
    found = re.search(rb'<svg[^>]*\swidth="([0-9.]+)(pt)?"', figure.image[:2000])
    return round(float(found[1]) * (4 / 3 if found[2] else 1)) if found else USUAL_WIDTH_PX


class _Shown(NamedTuple):
    """A cell as the page needs it."""

    text: str
    number: bool
    sort: str
    bar_pct: float | None


def _cells(table: Table) -> list[list[_Shown]]:
    columns = [column if isinstance(column, Column) else Column(column) for column in table.columns]
    wrong = next((row for row in table.rows if len(row) != len(columns)), None)
    if wrong is not None:
        raise ValueError(f"a row of {len(wrong)} cells in a table of {len(columns)} columns: {wrong!r}")
    largest = [
        max((abs(row[k]) for row in table.rows if _is_number(row[k])), default=0) if column.bar else 0  # type: ignore[arg-type]
        for k, column in enumerate(columns)
    ]
    return [
        [_shown(cell, column, most) for cell, column, most in zip(row, columns, largest, strict=True)]
        for row in table.rows
    ]


def _shown(cell: Cell, column: Column, largest: float) -> _Shown:
    if cell is None or isinstance(cell, str):
        return _Shown(cell or "", False, cell or "", None)
    bar = round(100 * abs(cell) / largest, 2) if largest and _is_number(cell) else None
    return _Shown(_text(cell, column.format), True, repr(float(cell)) if _is_number(cell) else "", bar)


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and math.isfinite(cell)


def _text(cell: Cell, spec: str = "") -> str:
    if cell is None or isinstance(cell, str):
        return cell or ""
    if not math.isfinite(cell):
        return str(cell)
    return format(cell, spec or ("," if isinstance(cell, int) else ".4g"))


def _choices(gallery: Gallery) -> list[list[tuple[str, int]]]:
    """Per filter of a gallery: its values with how many tiles have them."""
    wrong = next((tile for tile in gallery.tiles if len(tile.values) != len(gallery.filters)), None)
    if wrong is not None:
        raise ValueError(f"a tile of {len(wrong.values)} values in a gallery of {len(gallery.filters)} filters")
    counts = [Counter(tile.values[k] for tile in gallery.tiles) for k in range(len(gallery.filters))]
    return [[(value, number) for value, number in count.items() if value] for count in counts]


def _paragraphs(text: str) -> list[str]:
    return [paragraph for part in text.split("\n\n") if (paragraph := " ".join(part.split()))]


def _kind(block: Any) -> str:
    return type(block).__name__


def _finalize(value: Any) -> Any:
    """Characters that can not be seen, or turn the line around, are written out; secrets are left out."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    text = redact(value)
    return text if text.isprintable() else "\n".join(one_line(line) for line in text.split("\n"))
