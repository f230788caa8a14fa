"""A study folder -> the page that tune writes, from its files. Before: tune/stored, tune/page. After: page."""

from typing import TYPE_CHECKING

from hpa_ray.tune.stored import stored_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from hpa_ray.page import Figure


def study_report(uri: str) -> str:
    """The page as text. Raises InputError for a file that is missing or damaged."""
    from hpa_ray.explore.folder import FigureFolder  # late: these import matplotlib
    from hpa_ray.figures import figure_svg
    from hpa_ray.page import Figure as PageFigure
    from hpa_ray.tune.page import study_page

    class InPage(FigureFolder):
        """Figures live in the page alone: nothing lies beside it."""

        def chart(self, name: str, figure: "Drawing", caption: str) -> "Figure":
            return PageFigure(figure_svg(figure), caption)

    found = stored_study(uri)
    name = found.config.run.name or ""
    return study_page(found.answer, InPage(""), name=name, command=found.facts.command, reproduce=found.facts.reproduce)
