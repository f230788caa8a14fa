"""What a page is made of: sections of blocks, plain values only. After: page/render.

Every text is plain text, whatever is in it (names of files are the user's): the page escapes it, no block takes HTML.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True)
class Text:
    """Prose; a blank line begins a new paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command or another text whose line breaks and blanks count."""

    text: str


@dataclass(frozen=True)
class Card:
    """A key figure: large value, small label, and a line that puts it into proportion."""

    label: str
    value: Cell
    note: str = ""


@dataclass(frozen=True)
class Cards:
    cards: Sequence[Card]


@dataclass(frozen=True)
class Column:
    """Head of a table's column. `format` is a format spec of Python for its numbers, such as ".2%"; unset: 1,234 for
    whole numbers and four digits for others. `bar` draws the number as a bar behind it too, the largest one full."""

    title: str
    format: str = ""
    bar: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; None is an empty cell. Numbers stand right, a click on a column's head sorts by it, and a table of
    more than `scroll_rows` rows scrolls in itself (on paper it is printed whole)."""

    columns: Sequence[str | Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    scroll_rows: int = 30


@dataclass(frozen=True)
class Figure:
    """A picture: the bytes of an SVG, PNG, JPEG or WebP, a caption below and, if need be, a title above it.

    `alt` is what a reader hears who can not see it (unset: the caption), `files` are copies beside the page, as
    relative paths, offered below it. `width_px`: how wide it is where there is room; unset: its own width.
    """

    image: bytes
    caption: str = ""
    title: str = ""
    alt: str = ""
    files: Sequence[str] = ()
    width_px: int | None = None


@dataclass(frozen=True)
class Figures:
    """Figures that stand side by side where there is room for it, `columns` at most, and else below each other."""

    figures: Sequence[Figure]
    columns: int = 2


@dataclass(frozen=True)
class Tile:
    """A thumbnail, or several that belong together (a pair of duplicates), with a title and lines below it."""

    images: Sequence[bytes]
    title: str = ""
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Grid:
    """Thumbnails in as many columns as there is room for, each `tile_px` wide or a little more."""

    tiles: Sequence[Tile]
    tile_px: int = 160
    caption: str = ""


@dataclass(frozen=True)
class Problems:
    """One line per problem; `total` if there are more than are listed. Without any, `none` is said."""

    lines: Sequence[str]
    total: int | None = None
    level: Literal["error", "warning", "note"] = "warning"
    none: str = "None found."


@dataclass(frozen=True)
class Exhibit:
    """A tile of a gallery. `values`: by which each of the gallery's filters shows or hides it; "" is always hidden by
    a choice. `alt` is what a reader hears who can not see the picture."""

    image: bytes
    alt: str
    values: Sequence[str] = ()
    title: str = ""
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Gallery:
    """Pictures with a select element per filter; without JavaScript there are no filters, and all pictures are seen.

    Choices come in the order in which their values first appear among the tiles.
    """

    tiles: Sequence[Exhibit]
    filters: Sequence[str] = ()
    tile_px: int = 260
    caption: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks below a line that opens and closes them, with or without JavaScript; on paper they are open."""

    summary: str
    blocks: "Sequence[Block]"


Block: TypeAlias = Text | Code | Cards | Table | Figure | Figures | Grid | Problems | Gallery | Details


@dataclass(frozen=True)
class Section:
    """A titled part of a page; pages of three sections and more begin with links to them."""

    title: str
    blocks: Sequence[Block]
