"""What a machine has beside what the run takes. Before: machine, needs. After: examine."""

import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hpa_ray.cluster import DATA_CPUS
from hpa_ray.config import Config
from hpa_ray.doctor.findings import Finding, fail, gib, ok, warn
from hpa_ray.doctor.machine import Machine, existing
from hpa_ray.doctor.needs import PROCESS_BYTES, Needs

OBJECT_STORE_SHARE = 0.3
"""Of the memory, which Ray's object store takes if it is not told otherwise."""
SPILLS_ABOVE = 0.95
"""Of a disk: Ray writes no more objects to one that is fuller."""
OPEN_FILES = 8192
"""That Ray asks for; it raises the soft limit to the hard one, at most to RAISED_TO."""
RAISED_TO = 65536
MAPPED_SHARDS = 1024
"""Shards that a process keeps open."""


class Use(NamedTuple):
    """Something that goes to a local disk."""

    name: str
    path: str
    num_bytes: int


def check_cpus(config: Config, machine: Machine, *, starts_ray: bool) -> list[Finding]:
    """starts_ray: the workers will run here, in a Ray of their own."""
    found = f"{machine.cpus} usable"
    quota, workers = machine.quota_cpus, config.train.num_workers
    if starts_ray and workers > machine.cpus:
        return [fail("cpus", f"{found}, but train.num_workers = {workers}", "use fewer workers, or a cluster")]
    if quota is not None and quota < machine.cpus:
        change = "give the container more, or start with `taskset` on as many"
        return [warn("cpus", f"{found}, but the cgroup gives {quota:g} CPUs' worth of time: threads stall", change)]
    if starts_ray and machine.cpus < workers + DATA_CPUS:
        found += f"; train.num_workers = {workers} shares them with the tasks that read"
    return [ok("cpus", found)]


def check_open_files(config: Config, machine: Machine, *, num_shards: int) -> list[Finding]:
    """num_shards: local ones, which are kept open."""
    if machine.open_files is None:
        return []
    soft, hard = machine.open_files
    wanted = min(num_shards, MAPPED_SHARDS) + 256
    if config.train.num_workers:
        soft, wanted = max(soft, min(hard, RAISED_TO)), OPEN_FILES
    if soft < wanted:
        return [warn("open files", f"{soft:,} at a time, should be {wanted:,}", f"ulimit -n {wanted} before the start")]
    return [ok("open files", f"{soft:,} at a time")]


def check_memory(config: Config, machine: Machine, needs: Needs, *, on_gpu: bool) -> Iterator[Finding]:
    """Of a run whose workers are all on this machine."""
    total, available = machine.memory_bytes, machine.available_bytes
    if total is None or available is None:
        yield ok("memory", "this system does not tell how much is free")
        return
    workers = max(config.train.num_workers, 1)
    certain = workers * (PROCESS_BYTES + (0 if on_gpu else needs.certain_bytes)) + needs.stream_bytes
    about = certain + (0 if on_gpu else workers * (needs.about_bytes - needs.certain_bytes))
    found = f"{gib(available)} of {gib(total)} available, the run takes about {gib(about)}"
    smaller = "give a smaller train.batch_size or fewer workers"
    if certain > total:
        yield fail("memory", f"{found}; weights, gradients and batches alone take {gib(certain)}", smaller)
    elif about > available:
        yield warn("memory", found, f"{smaller}, or end other programs")
    else:
        yield ok("memory", found)
    if config.train.num_workers and machine.shared_memory_bytes is not None:
        yield _object_store(machine.shared_memory_bytes, total, needs.stream_bytes)


def _object_store(shared: int, total: int, waiting: int) -> Finding:
    store = int(min(shared * SPILLS_ABOVE, total * OBJECT_STORE_SHARE))
    found = f"{gib(shared)} at /dev/shm"
    if waiting > store / 2:  # as much as Ray Data lets its tasks fill
        change = "give a smaller train.prefetch_batches, or the container more (`docker run --shm-size`)"
        return warn("shared memory", f"{found}: batches that wait take {gib(waiting)}, Ray spills to disk", change)
    if shared * SPILLS_ABOVE < total * OBJECT_STORE_SHARE:
        change = "give the container more (`docker run --shm-size`)"
        return warn("shared memory", f"{found}, less than Ray's object store would like", change)
    return ok("shared memory", f"{found}, object store {gib(store)}, batches that wait {gib(waiting)}")


def check_gpus(config: Config, machine: Machine, cuda: dict[str, Any], needs: Needs | None) -> Iterator[Finding]:
    """Of a run whose workers are all on this machine. cuda: the answer of torch."""
    cfg, num_gpus = config.train, int(cuda["num_gpus"])
    if machine.has_driver and not num_gpus and cfg.use_gpu is not False:
        why = cuda["why_not"] or "no reason is given"
        if not cuda["built_for"]:
            why, change = "it is built without CUDA", "install torch with CUDA, or set train.use_gpu=false"
        elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            why, change = "CUDA_VISIBLE_DEVICES hides them", "unset it, or set train.use_gpu=false"
        else:
            change = f"a driver for CUDA {cuda['built_for']}, another build of torch, or train.use_gpu=false"
        found = f"an NVIDIA driver is here, but torch sees no GPU: {why}"
        yield (fail if cfg.use_gpu else warn)("gpus", found, change)
        return
    if missing := list(gpus_enough(config, num_gpus, "this machine")):
        yield from missing
        return
    if not num_gpus or cfg.use_gpu is False:
        yield ok("gpus", "none is used, training on CPUs" if num_gpus else "none, training on CPUs")
        return
    yield from _gpus(config, machine, needs)


def _gpus(config: Config, machine: Machine, needs: Needs | None) -> Iterator[Finding]:
    names = sorted({gpu.name for gpu in machine.gpus})
    if not machine.gpus:
        yield ok("gpus", "torch sees some, nvidia-smi does not tell which")
        return
    least = min(gpu.memory_bytes for gpu in machine.gpus)
    bf16 = all(gpu.has_bf16 for gpu in machine.gpus)
    found = f"{len(machine.gpus)} x {' and '.join(names)}, {gib(least)}, driver {machine.gpus[0].driver}"
    found += ", bf16" if bf16 else ", no bf16"
    if config.train.precision == "bf16" and not bf16:
        yield warn("gpus", f"{found}, but train.precision = bf16", "use auto or fp16")
    elif needs is not None and 0 < least < needs.about_bytes:
        about = f"the run takes about {gib(needs.about_bytes)} of each"
        yield warn("gpus", f"{found}; {about}", "give a smaller train.batch_size, or bf16")
    else:
        yield ok("gpus", found)


def gpus_enough(config: Config, num_gpus: int, where: str) -> Iterator[Finding]:
    """What the launch of a training would refuse."""
    cfg = config.train
    workers = max(cfg.num_workers, 1)
    if cfg.use_gpu and workers > num_gpus:
        change = "use fewer workers, a larger cluster, or train.use_gpu=false"
        yield fail("gpus", f"train.use_gpu=true with {workers} workers, and {where} has {num_gpus} GPUs", change)
    elif cfg.use_gpu is None and 0 < num_gpus < cfg.num_workers:
        change = f"give train.num_workers={num_gpus}, or train.use_gpu=false"
        yield fail("gpus", f"train.num_workers = {cfg.num_workers}, and {where} has {num_gpus} GPUs", change)


def check_disks(uses: Sequence[Use], *, spills: str | None) -> Iterator[Finding]:
    """A line per disk that something goes to. spills: where a Ray of this machine writes what memory does not hold."""
    disks: dict[int, list[Use]] = {}
    for use in uses:
        disks.setdefault(os.stat(existing(use.path)).st_dev, []).append(use)
    for some in disks.values():
        place = existing(some[0].path)
        disk = shutil.disk_usage(place)
        wanted = sum(use.num_bytes for use in some)
        names = ", ".join(f"{use.name} ({use.path})" for use in some)
        found = f"{gib(disk.free)} free for {names}"
        if wanted:
            found += f"; the run takes about {gib(wanted)}"
        full = 1 - disk.free / max(disk.total, 1)
        if disk.free < wanted:
            yield fail("disk", found, "free some, or name another place by run.storage or HPA_RAY_HOME")
        elif full > SPILLS_ABOVE and any(use.path == spills for use in some):
            yield warn(
                "disk", f"{found}; it is {full:.0%} full, where Ray stops to spill", "free some, or set RAY_TMPDIR"
            )
        else:
            yield ok("disk", found)
