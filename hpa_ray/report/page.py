"""Folders -> the page of their kind. Before: run_page, crossval_page, compare_page, study_part. After: cli."""

from collections.abc import Sequence

from hpa_ray.errors import InputError
from hpa_ray.report.contents import RunFiles
from hpa_ray.report.files import kind_of, read_run


def report_page(uris: Sequence[str]) -> str:
    """The page as text: of a run, a cross-validation or a study; of several runs, how they compare with the first.

    Needs nothing but the folders: neither the data nor torch nor Ray. Raises InputError, a line for a file that can not
    be used; files that are missing leave their section out.
    """
    if not uris:
        raise InputError("report needs report.run=FOLDER, or several with commas between them")
    kinds = [kind_of(uri) for uri in uris]
    if len(uris) > 1:
        return _comparison(uris, kinds)
    if kinds[0] == "study":
        from hpa_ray.report.study_part import study_report

        return study_report(uris[0])
    if kinds[0] == "crossval":
        from hpa_ray.report.crossval_page import crossval_page, read_crossval

        return crossval_page(read_crossval(uris[0]))
    from hpa_ray.report.run_page import run_page

    return run_page(read_run(uris[0]))


def _comparison(uris: Sequence[str], kinds: Sequence[str]) -> str:
    from hpa_ray.report.compare_page import MAX_RUNS, compare_page

    if "study" in kinds:
        raise InputError(
            f"report.run: {uris[list(kinds).index('study')]} is a study - compare runs, such as its trials"
        )
    if len(uris) > MAX_RUNS:
        raise InputError(f"report.run: {len(uris)} folders - give {MAX_RUNS} at most, more lines can not be told apart")
    runs: list[RunFiles] = [read_run(uri) for uri in uris]
    return compare_page(runs)
