"""One self-contained HTML page, which verbs write for people to look at. Before: progress. After: explore, cli.

from hpa_ray.page import Cards, Figure, Figures, Section, Table, Text, render_page

html = render_page("Labels", [Section("Classes", [Text("..."), Table(["class", "images"], [("Nucleoli", 3621)])])])
"""

from hpa_ray.page.render import render_page
from hpa_ray.page.sections import (
    Block,
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
)

__all__ = [
    "Block",
    "Card",
    "Cards",
    "Code",
    "Column",
    "Details",
    "Exhibit",
    "Figure",
    "Figures",
    "Gallery",
    "Grid",
    "Problems",
    "Section",
    "Table",
    "Text",
    "Tile",
    "render_page",
]
