"""One thing that was looked at: how it stands, what was found, what to change. After: everything in doctor."""

from typing import Any, Literal, NamedTuple

from hpa_ray.errors import InputError

Status = Literal["ok", "warn", "FAIL"]


class Finding(NamedTuple):
    check: str
    status: Status
    found: str
    change: str = ""

    @property
    def line(self) -> str:
        advice = f" - {self.change}" if self.change else ""
        return f"{self.status:<5} {self.check:<13} {self.found}{advice}"

    def as_json(self) -> dict[str, Any]:
        return self._asdict()


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warn(check: str, found: str, change: str) -> Finding:
    return Finding(check, "warn", found, change)


def fail(check: str, found: str, change: str) -> Finding:
    return Finding(check, "FAIL", found, change)


def refused(check: str, error: InputError | OSError) -> list[Finding]:
    """What a step of the training would end with, a line each."""
    if isinstance(error, OSError):
        return [fail(check, reason(error), "mend it or name another place")]
    return [_split(check, problem) for problem in error.problems]


def reason(error: BaseException) -> str:
    """An error in one line, without the number that the system has for it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())[:300] or type(error).__name__


def gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB"


def _split(check: str, problem: str) -> Finding:
    """Messages for users say what is wrong and, behind the last dash, what to do."""
    found, _, change = problem.rpartition(" - ")
    return fail(check, found or change, change if found else "")
