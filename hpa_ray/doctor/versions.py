"""Installed packages beside those that the package says it needs. Before: config. After: examine."""

import platform
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hpa_ray.config import Config
from hpa_ray.config.architectures import TIMM
from hpa_ray.doctor.findings import Finding, fail, ok, warn
from hpa_ray.doctor.machine import Machine, installed

PACKAGE = "hpa-ray"
SHOWN = ("ray", "torch", "torchvision", "pyarrow", "numpy")
IMPORTED_AS = {"mlflow-skinny": "mlflow"}


def check_versions(config: Config, machine: Machine) -> list[Finding]:
    """One line if all is well, else one for every package that is not."""
    try:
        needed = [Requirement(line) for line in requires(PACKAGE) or ()]
    except PackageNotFoundError:
        return [fail("versions", f"{PACKAGE} itself is not installed here", "pip install it, or `uv sync`")]
    wrong = list(_wrong(needed))
    python = SpecifierSet(str(metadata(PACKAGE)["Requires-Python"]))
    if machine.python not in python:
        wrong.insert(0, fail("versions", f"python {machine.python}, needs {python}", "install one of these"))
    shown = ", ".join(f"{name} {installed(name)}" for name in SHOWN)
    others = f"python {platform.python_version()}, {shown}"
    return [*(wrong or [ok("versions", others)]), *_extras(config, needed), *_compiler(config, machine)]


def _wrong(needed: list[Requirement]) -> Iterator[Finding]:
    pair = [Requirement(line) for line in (requires("torchvision") or ()) if installed("torchvision")]
    for requirement in [*needed, *(each for each in pair if each.name == "torch")]:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = installed(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            yield fail("versions", f"{requirement.name} {found or 'is missing'}, needs {wanted}", _pip(wanted))


def _extras(config: Config, needed: list[Requirement]) -> Iterator[Finding]:
    asked = {
        "timm": f"model.name = {config.model.name}" if config.model.name.startswith(TIMM) else "",
        "mlflow": "track.mlflow is set" if config.track.mlflow else "",
        "wandb": "track.wandb is set" if config.track.wandb else "",
    }
    for extra, why in asked.items():
        if not why:
            continue
        (requirement,) = (r for r in needed if r.marker is not None and r.marker.evaluate({"extra": extra}))
        found = installed(requirement.name)
        if not _can_be_found(IMPORTED_AS.get(requirement.name, requirement.name)):
            yield fail("extras", f"{extra} is not installed, but {why}", _pip(f"hpa-ray[{extra}]"))
        elif found is not None and found not in requirement.specifier:
            yield warn("extras", f"{extra} {found}, tested with {requirement.specifier}", _pip(f"hpa-ray[{extra}]"))
        else:
            yield ok("extras", f"{extra} {found or ''}".strip())


def _compiler(config: Config, machine: Machine) -> Iterator[Finding]:
    if not config.train.compile:
        return
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not machine.has_compiler:
        yield fail("compiler", "train.compile=true, but there is no C++ compiler", "install g++, or leave it out")
    elif not headers.exists():
        yield warn("compiler", f"there is no {headers}, which torch.compile includes", "install python3-dev")
    else:
        yield ok("compiler", "a C++ compiler for train.compile")


def _can_be_found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def _pip(what: str) -> str:
    return f"pip install '{what}'"
