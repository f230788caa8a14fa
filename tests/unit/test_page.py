"""The page builder: what users name their files can do no harm, nothing is loaded, cells mean what they say."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from hpa_ray.page import (
    Card,
    Cards,
    Code,
    Column,
    Details,
    Exhibit,
    Figure,
    Figures,
    Gallery,
    Grid,
    Problems,
    Section,
    Table,
    Text,
    Tile,
    render_page,
)
from hpa_ray.page.sections import Block

EVIL = "<script>alert('x')</script> \"a\" & </style> ${x} {{ 7 * 7 }}"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="300pt" height="20pt"><script>alert(1)</script></svg>'
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip() and self.tags:
            self.texts.append((self.tags[-1][0], data.strip()))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def text_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def page(*blocks: Block, **options: Any) -> Parsed:
    return Parsed(render_page("Title", [Section("Part", blocks)], **options))


def everything(text: str) -> list[Block]:
    return [
        Text(text),
        Code(text),
        Cards([Card(text, text, text)]),
        Table([text, Column(text)], [(text, text)], caption=text),
        Figure(SVG, text, text, text, [text]),
        Figures([Figure(PNG, text)]),
        Grid([Tile([PNG, PNG], text, [text])], caption=text),
        Problems([text]),
        Problems([], none=text),
        Gallery([Exhibit(PNG, text, [text], text, [text])], [text], caption=text),
        Details(text, [Text(text)]),
    ]


def test_text_stays_text_in_every_block() -> None:
    html = render_page(EVIL, [Section(EVIL, everything(EVIL))], subtitle=EVIL, footer=EVIL)
    parsed = Parsed(html)
    assert len(parsed.of("script")) == 1  # ours
    assert not re.search(r"<script>alert", html)
    told = [text for tag, text in parsed.texts if tag not in ("style", "script")]
    # title, h1, subtitle, h2, footer; text, code, a card's three, a table's five, two figures' three, a grid's three,
    # two lists' two, a gallery's filter, its choice and three more, details' two (a tag among the text ends a piece of
    # it, so the beginnings are counted)
    assert sum(text.startswith(EVIL[:20]) for text in told) == 5 + 1 + 1 + 3 + 5 + 3 + 3 + 2 + 5 + 2
    assert not any("49" in text for text in told)
    for attributes in (attrs for _, attrs in parsed.tags):
        assert not any(name.startswith("on") for name in attributes)


def test_signs_that_can_not_be_seen_are_written_out() -> None:
    html = render_page("a\u202egnp.exe", [Section("b\x00c", [Text("d\ud800e"), Problems(["line\rover"])])])
    assert "a\\u202egnp.exe" in html
    assert "b\\x00c" in html
    assert "d\\ud800e" in html
    assert "line\\rover" in html
    html.encode()


def test_nothing_is_loaded() -> None:
    parsed = page(*everything("plain"))
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#", "./")), (tag, address)
        assert tag not in ("link", "iframe", "object", "embed")
    html = render_page("Title", [Section("Part", everything("plain"))])
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_browser_runs_only_our_script() -> None:
    html = render_page("Title", [])
    policy = next(attrs["content"] for attrs in Parsed(html).of("meta") if "http-equiv" in attrs)
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_cells() -> None:
    columns = ["name", Column("images", bar=True), Column("share", ".1%")]
    parsed = page(Table(columns, [("a", 1200, 0.25), ("b", 300, float("nan")), ("c", None, 0.5)]))
    assert parsed.text_of("td") == ["a", "1,200", "25.0%", "b", "300", "nan", "c", "50.0%"]
    cells = parsed.of("td")
    assert [cell.get("class") for cell in cells[:3]] == [None, "number", "number"]
    assert [cell.get("data-sort") for cell in cells[:3]] == [None, "1200.0", "0.25"]
    assert cells[5].get("data-sort") == "", "no number to sort by"
    assert [cell.get("style") for cell in cells] == [None, "--bar:100.0%", None, None, "--bar:25.0%", *[None] * 4]
    assert [head.get("class") for head in parsed.of("th")] == [None, "number", "number"]
    with pytest.raises(ValueError, match="row of 2 cells in a table of 3 columns"):
        page(Table(columns, [("a", 1)]))


def test_long_tables_scroll() -> None:
    def classes(num_rows: int) -> str:
        parsed = page(Table(["n"], [(n,) for n in range(num_rows)], scroll_rows=5))
        return next(attrs["class"] or "" for attrs in parsed.of("div") if "table" in (attrs.get("class") or ""))

    assert classes(5) == "table"
    assert classes(6) == "table long"


def test_figures_hold_their_pictures_and_name_their_copies() -> None:
    parsed = page(Figure(SVG, "caption", files=["figures/a b.png"]), Figure(PNG, "p", width_px=90))
    first, second = parsed.of("img")
    assert first["src"] == f"data:image/svg+xml;base64,{base64.b64encode(SVG).decode()}"
    assert first["alt"] == "caption"
    assert first["style"] == "--width:400px"  # 300 pt
    assert second["style"] == "--width:90px;width:90px"
    link = next(attrs for attrs in parsed.of("a") if "download" in attrs)
    assert link["href"] == "./figures/a%20b.png"
    with pytest.raises(ValueError, match="unknown format"):
        page(Figure(b"GIF89a"))


def test_an_address_of_a_copy_stays_beside_the_page() -> None:
    parsed = page(Figure(SVG, files=["javascript:alert(1)", "https://example.org/x.png"]))
    assert all(str(attrs["href"]).startswith("./") for attrs in parsed.of("a") if "download" in attrs)


def test_problems_and_their_absence() -> None:
    assert page(Problems(["one", "two"], total=1500)).text_of("li") == ["one", "two", "and 1,498 more"]
    assert "None found." in page(Problems([])).text_of("p")


def test_prose_has_paragraphs() -> None:
    assert page(Text("one\nstill one\n\ntwo"), subtitle="sub").text_of("p") == ["sub", "one still one", "two"]


def test_links_to_sections_from_three_on() -> None:
    def links(num: int) -> list[str | None]:
        html = render_page("T", [Section(f"S{k}", []) for k in range(num)])
        return [attrs["href"] for attrs in Parsed(html).of("a")]

    assert links(2) == []
    assert links(3) == ["#s1", "#s2", "#s3"]


def test_a_gallery_has_a_select_per_filter_that_is_hidden_without_a_script() -> None:
    tiles = [Exhibit(PNG, f"tile {k}", (kind, "x")) for k, kind in enumerate(["b", "a", "b", ""])]
    parsed = page(Gallery(tiles, ("kind", "other"), caption="few"))
    (bar,) = [attrs for attrs in parsed.of("div") if attrs.get("class") == "filters"]
    assert "hidden" in bar
    assert len(parsed.of("select")) == len(parsed.of("label")) == 2
    assert parsed.text_of("option") == ["all (4)", "b (2)", "a (1)", "all (4)", "x (4)"]
    figures = parsed.of("figure")
    assert [attrs["data-value-0"] for attrs in figures] == ["b", "a", "b", ""]
    assert not any("hidden" in attrs for attrs in figures)
    assert [attrs["alt"] for attrs in parsed.of("img")] == ["tile 0", "tile 1", "tile 2", "tile 3"]
    assert page(Gallery(tiles[:0], ("kind",))).text_of("option") == ["all (0)"]
    with pytest.raises(ValueError, match="a tile of 2 values in a gallery of 1 filters"):
        page(Gallery(tiles, ("kind",)))


def test_details_hold_any_blocks_and_open_without_a_script() -> None:
    parsed = page(Details("more", [Table(["a"], [("cell",)]), Details("inner", [Text("deep")])]))
    assert len(parsed.of("details")) == 2
    assert parsed.text_of("summary") == ["more", "inner"]
    assert parsed.text_of("td") == ["cell"]
    assert parsed.text_of("p") == ["deep"]
