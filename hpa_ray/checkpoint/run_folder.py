"""A run folder, on a disk or in an object store: every file in it is valid at any moment."""

import contextlib
import errno
import io
import json
import re
from collections.abc import Iterable
from pickle import UnpicklingError
from typing import Any

import pyarrow as pa

from hpa_ray.errors import InputError
from hpa_ray.progress import one_line
from hpa_ray.storage import absolute, exists, join, list_files, read_bytes, remove, write_bytes, write_json

CHECKPOINT = re.compile(r"epoch-(\d+)(?:-(\d+))?\.pt")
CHECKPOINTS_KEPT = 2


class RunFolder:
    def __init__(self, uri: str) -> None:
        self.uri = absolute(uri)
        self._saved: str | None = None
        self._undeleted: str | None = None

    def path(self, *parts: str) -> str:
        return join(self.uri, *parts)

    def exists(self) -> bool:
        return exists(self.path("config.yaml"))

    def read_text(self, name: str) -> str:
        return read_bytes(self.path(name)).decode()

    def write_text(self, name: str, text: str) -> None:
        write_bytes(self.path(name), text.encode())

    def read_json(self, name: str) -> Any:
        return json.loads(read_bytes(self.path(name)))

    def write_json(self, name: str, value: Any) -> None:
        write_json(self.path(name), value)

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """metrics.jsonl, a line per epoch; written whole, as an object store knows no appending."""
        self.write_text("metrics.jsonl", "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines so far; none before the first epoch. Raises InputError if they can not be read."""
        try:
            text = self.read_text("metrics.jsonl")
        except FileNotFoundError:
            return []
        except UnicodeDecodeError:
            text = "damaged"
        try:
            return [dict(json.loads(line)) for line in text.splitlines()]
        except (ValueError, TypeError) as error:
            path = self.path("metrics.jsonl")
            raise InputError(f"{path}: damaged - delete it, the checkpoint holds the same lines") from error

    def save_checkpoint(self, epoch: int, state: dict[str, Any], *, samples_seen: int = 0) -> None:
        """The state after `epoch` finished epochs and some samples of the next; the newest CHECKPOINTS_KEPT are kept.

        One file, written whole or not at all: its name is the mark that it is complete.
        """
        import torch  # seconds to import, and most of a run folder needs none of it

        buffer = io.BytesIO()
        torch.save(state, buffer)
        name = f"epoch-{epoch:04d}" + (f"-{samples_seen:010d}" if samples_seen else "") + ".pt"
        write_bytes(self.path("checkpoints", name), pa.py_buffer(buffer.getbuffer()))  # not another copy of it
        files = list_files(self.path("checkpoints"))
        names = _in_order(files)
        if self._saved is not None and self._saved not in names:
            raise FileNotFoundError(errno.ENOENT, "was removed, or emptied, while the run was going on", self.uri)
        self._saved = name
        broken = [old for old in files if old.endswith(".tmp")]  # of a process killed
        try:
            remove(self.path("checkpoints", old) for old in (*names[:-CHECKPOINTS_KEPT], *broken))
        except PermissionError as error:  # a place where files may be written and not deleted
            if self._undeleted is None:
                self._undeleted = f"older checkpoints stay, as they can not be deleted: {error}"

    def undeleted(self) -> str:
        """Why files that are needed no longer stay; told once, and empty if none do."""
        reason = self._undeleted or ""
        if reason:
            self._undeleted = ""
        return reason

    def load_checkpoint(self, name: str | None = None) -> dict[str, Any] | None:
        """One of `checkpoints`, or the newest; None if there is none. Raises InputError if it can not be read."""
        if name is None:
            names = self.checkpoints()
            if not names:
                return None
            name = names[-1]
        uri = self.path("checkpoints", name)
        try:
            return _state_of(read_bytes(uri))
        except ValueError as error:
            raise InputError(f"{uri}: not a checkpoint ({error}) - delete it to go on from the one before") from error

    def drop_checkpoints(self) -> None:
        """Of a run that is not gone on with; they stay where files may not be deleted."""
        with contextlib.suppress(PermissionError):
            remove(self.path("checkpoints", name) for name in self.checkpoints())

    def checkpoints(self) -> list[str]:
        """Names of the stored states, the newest last."""
        try:
            return _in_order(list_files(self.path("checkpoints")))
        except FileNotFoundError:
            return []


def _in_order(names: Iterable[str]) -> list[str]:
    """Those that are checkpoints, the newest last."""
    places = {name: (int(match[1]), int(match[2] or 0)) for name in names if (match := CHECKPOINT.fullmatch(name))}
    return sorted(places, key=places.__getitem__)


def _state_of(content: bytes) -> dict[str, Any]:
    """The bytes of torch.save -> what was saved. Raises ValueError with the reason for anything else."""
    import torch

    from hpa_ray.model.torch_zip import verified

    try:
        state = torch.load(verified(content), map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # its own message tells to load it without this protection
        raise ValueError("it holds more than tensors and plain values") from error
    except Exception as error:  # 25,000 damaged files gave 15 kinds of errors, C library included
        raise ValueError(one_line(" ".join(f"{type(error).__name__}: {error}".split())[:200])) from error
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}")
    return state
