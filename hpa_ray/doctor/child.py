"""A question to a process of its own, with a time limit. Before: network and nodes, which run in it. After: examine.

Importing torch and Ray takes seconds, so both go on while other things are looked at; and either may hang where no
exception reaches it, or end its process: a port that is not Ray's, a driver that does not fit.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import hpa_ray

RUN = "import importlib, json, sys; answer = importlib.import_module(sys.argv[1]).answer; "
RUN += "print('\\n' + json.dumps(answer(json.load(sys.stdin))), flush=True)"


class NoAnswer(Exception):
    """The process ended without an answer: in one line, why."""


class TooSlow(NoAnswer):
    """There was no answer in time."""


class Child:
    """Imports a module at once; `ask` calls its `answer`, from plain values to plain values."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        path = [str(Path(hpa_ray.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUN, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(filter(None, path))},
        )

    def ask(self, question: Any, *, timeout_s: float) -> Any:
        """The answer; once. Raises NoAnswer or TooSlow."""
        try:
            answer, told = self._process.communicate(json.dumps(question).encode(), timeout_s)
        except subprocess.TimeoutExpired as error:
            self.close()
            raise TooSlow(f"no answer within {timeout_s:g} s") from error
        if self._process.returncode:
            lines = told.decode(errors="replace").strip().splitlines()
            raise NoAnswer(lines[-1].strip()[:300] if lines else f"ended with code {self._process.returncode}")
        return json.loads(answer.splitlines()[-1])

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
