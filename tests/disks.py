"""Disks that are full, read-only or not ours to write to, for tests and benchmarks; real ones."""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A disk of its own, mounted in a new folder. Raises OSError where none can be: it takes Linux and root."""
    folder.mkdir()
    try:
        tried = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise OSError("no mount command") from error
    if tried.returncode:
        raise OSError(tried.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, mode: str) -> None:
    """`ro` or `rw`; not while a file is being written."""
    end = time.monotonic() + 10
    while (tried := subprocess.run(["mount", "-o", f"remount,{mode}", disk], capture_output=True)).returncode:
        assert time.monotonic() < end, tried.stderr


def fill(disk: Path, but: int = 4096) -> Path:
    """A file that leaves so many bytes of a disk."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - but))
    return filler


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """In this block this thread and those it starts may write no more than the modes of files allow, even as root.

    Raises OSError where that can not be, which is no Linux.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the same of capabilities above 31
    if libc.capget(version_3, sets):
        raise OSError(ctypes.get_errno(), "capabilities can not be read")
    before = sets[0]
    sets[0] = before & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(version_3, sets):
        raise OSError(ctypes.get_errno(), "capabilities can not be given up")
    try:
        yield
    finally:
        sets[0] = before
        libc.capset(version_3, sets)
