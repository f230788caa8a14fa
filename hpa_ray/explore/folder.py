"""Where the figures of a page are kept as files. Before: figures. After: explore/label_page, image_page."""

from matplotlib.figure import Figure

from hpa_ray import figures, page
from hpa_ray.storage import join, write_bytes


class FigureFolder:
    """Writes figures beside the page and gives them back as blocks of it."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.files: list[str] = []

    def chart(self, name: str, figure: Figure, caption: str) -> page.Figure:
        """As PNG for slides and SVG for papers; the page holds the latter."""
        svg = figures.figure_svg(figure)
        png = self._write(f"{name}.png", figures.figure_png(figure))
        return page.Figure(svg, caption, files=[png, self._write(f"{name}.svg", svg)])

    def photo(self, name: str, figure: Figure, caption: str, *, title: str = "") -> page.Figure:
        """As PNG; the page holds a JPEG, which is a tenth as large."""
        png = figures.figure_png(figure, dpi=140)
        files = [self._write(f"{name}.png", png)]
        width_px = round(96 * figure.get_figwidth())
        return page.Figure(figures.as_jpeg(png), caption, title, f"{title} {caption}", files, width_px)

    def _write(self, name: str, content: bytes) -> str:
        write_bytes(join(self.output, "figures", name), content)
        self.files.append(f"figures/{name}")
        return self.files[-1]
