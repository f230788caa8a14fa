"""One HTML file that says what a run, a study or several runs are worth, from their files alone.

Before: tune, checkpoint, figures, page. After: cli.
"""

from hpa_ray.report.page import report_page

__all__ = ["report_page"]
