"""`doctor`: whether a training with this configuration will work here, a line for each thing that was looked at."""

import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli import train_verb
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import home, resolve
from hpa_ray.config import Config
from hpa_ray.doctor import Finding, brief_requests, examine, fail, ok, refused
from hpa_ray.errors import InputError
from hpa_ray.progress import console
from hpa_ray.storage import write_json


def doctor(invocation: Invocation) -> dict[str, Any]:
    began = time.monotonic()
    config = resolve(invocation)
    resumes_nothing = config.run.resume and not config.run.name
    config, folder = train_verb.named(config)
    findings = []
    with brief_requests():
        for finding in chain(_configuration(config, folder, resumes_nothing), examine(config, home=str(home()))):
            console.say(finding.line)
            findings.append(finding)
    count = {status: sum(finding.status == status for finding in findings) for status in ("ok", "warn", "FAIL")}
    seconds = round(time.monotonic() - began, 1)
    console.say(f"{count['ok']} ok, {count['warn']} warn, {count['FAIL']} FAIL, in {seconds} s")
    result = {"count": count, "seconds": seconds, "findings": [finding.as_json() for finding in findings]}
    if config.doctor.output:
        write_json(config.doctor.output, result)
    if count["FAIL"]:
        raise InputError(f"{count['FAIL']} of {len(findings)} checks FAIL, listed above")
    console.say(f"next: {_next(config)}")
    return result


def _configuration(config: Config, folder: RunFolder, resumes_nothing: bool) -> Iterator[Finding]:
    """What `train` looks at before anything else."""
    try:
        train_verb.check_settings(config)
        yield ok("configuration", "resolved without contradictions")
    except InputError as error:
        yield from refused("configuration", error)
    if resumes_nothing:
        yield fail("run", "run.resume=true without run.name", "give run.name=NAME, the run to go on with")
        return
    try:
        train_verb.claim(folder, config, dry=True)
        goes_on = config.run.resume and folder.exists()
        yield ok("run", f"{folder.uri}: {'is there, and is gone on with' if goes_on else 'the name is free'}")
    except (InputError, OSError) as error:
        yield from refused("run", error)


def _next(config: Config) -> str:
    if config.data.images:
        return "`hpa-ray check` looks at the pixels, then `hpa-ray train` with the same words"
    return "`hpa-ray train` with the same words"
