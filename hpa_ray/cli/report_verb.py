"""`report`: one HTML file from the files of a run, a cross-validation, a study, or several runs to compare."""

import time
from typing import Any

from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import resolve
from hpa_ray.errors import InputError
from hpa_ray.progress import console
from hpa_ray.report import report_page
from hpa_ray.storage import absolute, join, write_bytes

PAGE = "report.html"


def report(invocation: Invocation) -> dict[str, Any]:
    began = time.monotonic()
    config = resolve(invocation)
    runs, output = tuple(absolute(uri) for uri in config.report.run), config.report.output
    if not runs:
        raise InputError("report needs report.run=FOLDER, or several with commas between them")
    if output is None and len(runs) > 1:
        raise InputError("report of several folders needs report.output=FILE.html")
    if len(set(runs)) < len(runs):
        raise InputError("report.run names a folder twice - there is nothing to compare it with but itself")
    output = output or join(runs[0], PAGE)
    if not output.endswith((".html", ".htm")):
        raise InputError(f"report.output = {output}: name a file that ends in .html")
    page = report_page(runs).encode()
    write_bytes(output, page)
    console.say(f"written: {output} ({len(page) / 2**20:.1f} MiB)")
    return {"output": output, "bytes": len(page), "num_runs": len(runs), "wall_s": round(time.monotonic() - began, 2)}
