"""What one machine has: CPUs, memory, GPUs, limits, disks, versions. Before: the system. After: limits, nodes.

Imports neither torch nor Ray: it is asked of every node of a cluster.
"""

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from hpa_ray.cluster import available_cpus
from hpa_ray.cluster.address import ray_temp

CGROUPS = Path("/sys/fs/cgroup")
SHARED_MEMORY = "/dev/shm"
NVIDIA_QUERY = ("name", "memory.total", "driver_version", "compute_cap")
NVIDIA_TIMEOUT_S = 10.0
BF16_CAPABILITY = 8.0
PACKAGES = ("hpa-ray", "ray", "torch", "torchvision", "pyarrow", "numpy")
"""Those that the machines of a cluster must agree on, or had better."""


class Gpu(NamedTuple):
    name: str
    memory_bytes: int
    driver: str
    has_bf16: bool


class Machine(NamedTuple):
    """Plain values, so that it can be sent; None is what this system does not tell."""

    host: str
    python: str
    packages: dict[str, str | None]
    cpus: int
    quota_cpus: float | None
    memory_bytes: int | None
    available_bytes: int | None
    shared_memory_bytes: int | None
    open_files: tuple[int, int] | None  # soft and hard limit
    gpus: list[Gpu]
    has_driver: bool
    has_compiler: bool
    temp: str
    temp_free_bytes: int
    temp_total_bytes: int
    now_s: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Machine":
        return cls(**{**values, "gpus": [Gpu(*gpu) for gpu in values["gpus"]]})


def survey() -> Machine:
    """Of the machine that this runs on, within what its cgroups allow."""
    memory_bytes, available_bytes = memory()
    temp = ray_temp()
    disk = shutil.disk_usage(existing(temp))
    gpus = nvidia_gpus()
    return Machine(
        host=socket.gethostname(),
        python=platform.python_version(),
        packages={name: installed(name) for name in PACKAGES},
        cpus=available_cpus(),
        quota_cpus=cpu_quota(),
        memory_bytes=memory_bytes,
        available_bytes=available_bytes,
        shared_memory_bytes=shutil.disk_usage(SHARED_MEMORY).total if os.path.isdir(SHARED_MEMORY) else None,
        open_files=open_files(),
        gpus=gpus,
        has_driver=bool(gpus) or os.path.exists("/proc/driver/nvidia/version"),
        has_compiler=any(map(shutil.which, ("c++", "g++", "clang++"))),
        temp=temp,
        temp_free_bytes=disk.free,
        temp_total_bytes=disk.total,
        now_s=time.time(),
    )


def installed(package: str) -> str | None:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def existing(path: str) -> str:
    """The path, or the nearest folder above it that is there."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def open_files() -> tuple[int, int] | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def nvidia_gpus() -> list[Gpu]:
    """What the driver tells; nothing where there is none, or no nvidia-smi that works."""
    query = [f"--query-gpu={','.join(NVIDIA_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, timeout=NVIDIA_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    gpus = []
    for line in done.stdout.strip().splitlines():
        name, mib, driver, capability = (word.strip() for word in line.split(","))
        memory_bytes = int(mib) * 2**20 if mib.isdigit() else 0  # such as "[N/A]" where it is the machine's own
        gpus.append(Gpu(name, memory_bytes, driver, _number(capability) >= BF16_CAPABILITY))
    return gpus


def memory(meminfo: Path = Path("/proc/meminfo"), root: Path = CGROUPS) -> tuple[int | None, int | None]:
    """Bytes in all and to be had now: those of the machine, or fewer where a cgroup says so."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    except OSError:
        return (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None), None
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    for folder in cgroup_folders("memory", root):
        limit = _read(folder, "memory.max", "memory.limit_in_bytes")
        used = _read(folder, "memory.current", "memory.usage_in_bytes")
        if limit is None or used is None or limit >= total:
            continue
        total = int(limit)
        available = min(available, int(limit - used + _cached(folder)))
    return total, max(available, 0)


def cpu_quota(root: Path = CGROUPS) -> float | None:
    """CPUs' worth of time that the cgroups of this process allow; None without a limit."""
    quotas = []
    for folder in cgroup_folders("cpu", root):
        try:
            words = (folder / "cpu.max").read_text().split()
        except OSError:
            words = [str(_read(folder, name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        quota, period = map(_number, words)
        if quota > 0 and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def cgroup_folders(controller: str, root: Path, own: Path = Path("/proc/self/cgroup")) -> Iterator[Path]:
    """The cgroup of this process and those above it, of version 2 or 1; in a container often the root alone."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        folder = top / path.strip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _read(folder: Path, *names: str) -> float | None:
    for name in names:
        try:
            return _number((folder / name).read_text()) or None
        except OSError:
            continue
    return None


def _cached(folder: Path) -> float:
    """Bytes of files that the kernel gives up when they are needed."""
    try:
        pairs = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return 0
    return _number(pairs.get("total_inactive_file") or pairs.get("inactive_file") or "0")


def _number(text: str) -> float:
    """0 for `max` and for everything else that is none."""
    try:
        return float(text)
    except ValueError:
        return 0.0
