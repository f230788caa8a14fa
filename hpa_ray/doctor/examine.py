"""All checks of one configuration, in the order in which they are known. Before: everything in doctor. After: cli."""

import contextlib
import dataclasses
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from hpa_ray import cluster, storage
from hpa_ray.cluster.address import CONNECT_S, Cluster, find_cluster
from hpa_ray.config import Config
from hpa_ray.doctor.address import check_address, check_own_ray, check_token, check_variables
from hpa_ray.doctor.child import Child, NoAnswer, TooSlow
from hpa_ray.doctor.compare import check_cluster, check_nodes
from hpa_ray.doctor.data import check_data, num_local_shards
from hpa_ray.doctor.findings import Finding, fail, ok, refused, warn
from hpa_ray.doctor.limits import Use, check_cpus, check_disks, check_gpus, check_memory, check_open_files
from hpa_ray.doctor.machine import Machine, survey
from hpa_ray.doctor.needs import Needs, Network, needs
from hpa_ray.doctor.places import MARK, check_clocks, check_storage, check_weights, probe_folder
from hpa_ray.doctor.versions import check_versions
from hpa_ray.errors import InputError
from hpa_ray.manifest import image_sets
from hpa_ray.storage import is_local, join, remove, write_bytes
from hpa_ray.stream.data import Opened

ATTEMPTS = 3
REQUEST_S = 10.0
"""Of a request to a store: what does not answer is told within half a minute, and one failure is none."""
ATLAS_SHARE = 0.5
"""Bytes per pixel of a synthetic PNG, about."""


class _Ray(NamedTuple):
    """Which Ray the workers will run in."""

    here: bool
    """On this machine: in a Ray that is started for it, or without any."""
    joined: Cluster | None
    findings: list[Finding]


@contextlib.contextmanager
def brief_requests() -> Iterator[None]:
    """In this block a store that does not answer is given up soon."""
    before = storage.settings()
    attempts, timeout_s = min(ATTEMPTS, before.max_attempts), min(REQUEST_S, before.timeout_s)
    storage.configure(dataclasses.replace(before, max_attempts=attempts, timeout_s=timeout_s))
    try:
        yield
    finally:
        storage.configure(before)


def examine(config: Config, *, home: str) -> Iterator[Finding]:
    """run.name and run.storage are set; home: where things go for which the user named no place."""
    base = config.run.storage
    assert base is not None
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Child("hpa_ray.doctor.network"))  # torch is imported while all else is looked at
        machine = survey()
        ray = _find_ray(config, machine)
        nodes: Child | None = None
        if ray.joined is not None:
            environment = cluster.ENVIRONMENT | {"RAY_ADDRESS": ray.joined.address}
            nodes = stack.enter_context(Child("hpa_ray.doctor.nodes", environment))
        yield from check_versions(config, machine)
        yield from check_cpus(config, machine, starts_ray=ray.here and config.train.num_workers > 0)
        folder = stack.enter_context(probe_folder(base))
        stored = check_storage("run.storage", base, folder)
        yield from stored
        opened = yield from _data(config, home)
        yield from check_clocks([uri for uri in (base, config.data.images, config.data.shards) if uri])
        yield from check_open_files(config, machine, num_shards=num_local_shards(opened) if opened else 0)
        yield from ray.findings
        told = yield from _torch(config, network, opened)
        wanted = _needs(config, machine, told, opened)
        if ray.here:
            yield from _here(config, machine, told, wanted)
        spills = machine.temp if ray.here and config.train.num_workers else None
        yield from check_disks(_uses(config, spills, home, wanted), spills=spills)
        if ray.joined is not None and nodes is not None:
            place = folder if stored[0].status == "ok" else None
            yield from _cluster(config, nodes, ray.joined, place, machine, wanted)


def _find_ray(config: Config, machine: Machine) -> _Ray:
    if not config.train.num_workers:
        return _Ray(True, None, [ok("ray", "not used: train.num_workers=0 trains in this process")])
    findings = [*check_variables(), *check_token()]
    try:
        joined = find_cluster(machine.temp)
        if joined is None:
            return _Ray(True, None, [*findings, *check_own_ray(config, machine)])
        silent = check_address(joined, timeout_s=CONNECT_S)
    except InputError as error:
        return _Ray(False, None, [*findings, *refused("ray", error)])
    return _Ray(False, joined, findings) if silent is None else _Ray(False, None, [*findings, silent])


def _data(config: Config, home: str) -> Generator[Finding, None, Opened | None]:
    cfg = config.data
    if not (cfg.images or cfg.labels or cfg.shards):
        yield ok("data", f"none is given: the synthetic atlas in {home} is used, and drawn if need be")
        return None
    findings, opened = check_data(config)
    yield from findings
    return opened


def _torch(config: Config, network: Child, opened: Opened | None) -> Generator[Finding, None, dict[str, Any]]:
    """Returns what torch has told, nothing if it has not."""
    image_size = _image_size(config, opened)
    question = {
        "model": config.model.model_dump(),
        "channels": config.data.channels,
        "image_size": image_size,
        "sizes": config.train.sizes[:-1],
    }
    try:
        told: dict[str, Any] = network.ask(question, timeout_s=config.doctor.timeout_s)
    except TooSlow as error:
        change = "a higher doctor.timeout_s shows what the model takes"
        yield warn("torch", f"{error}, which is long even for its import", change)
        return {}
    except NoAnswer as error:
        yield fail("torch", f"can not be used: {error}", "install torch again, with the torchvision that fits")
        return {}
    if "problems" in told:
        yield from refused("model", InputError(*told["problems"]))
        return told
    millions = told["network"]["num_parameters"] / 1e6
    yield ok("model", f"{config.model.name}: {millions:,.1f} million parameters, takes images of {image_size} px")
    yield from check_weights(config.model.weights, told["download"])
    return told


def _here(config: Config, machine: Machine, told: dict[str, Any], wanted: Needs | None) -> Iterator[Finding]:
    if not told:
        return
    yield from check_gpus(config, machine, told["cuda"], wanted)
    if wanted is not None:
        yield from check_memory(config, machine, wanted, on_gpu=_on_gpu(config, told))


def _cluster(
    config: Config, nodes: Child, joined: Cluster, folder: str | None, machine: Machine, wanted: Needs | None
) -> Iterator[Finding]:
    """folder: of the probe, None if it could not be written to."""
    question = {
        "num_workers": config.train.num_workers,
        "settings": dataclasses.asdict(storage.settings()),
        "folder": folder,
        "files": _files_of_workers(config),
        "timeout_s": config.doctor.timeout_s,
    }
    mark = join(folder, MARK) if folder is not None else None
    try:
        if mark is not None:
            write_bytes(mark, b"")
        found = nodes.ask(question, timeout_s=2 * config.doctor.timeout_s)
    except NoAnswer as error:
        change = "see that it is the port of `ray start` (6379), of the same version of Ray and with the same token"
        yield fail("ray", f"{joined.known_by}: can not be joined ({error})", change)
        return
    finally:
        if mark is not None:
            remove([mark])
    yield from check_cluster(config, found, joined.known_by)
    in_bucket = not is_local(config.run.storage or "")
    yield from check_nodes(config, found["nodes"], machine, wanted, in_bucket=in_bucket)


def _files_of_workers(config: Config) -> list[str]:
    """What is read by the workers, wherever they run, and not by the driver alone."""
    cfg, weights = config.data, config.model.weights
    images = [place.images for place in image_sets(cfg)] if cfg.images else []
    files = [uri for uri in (cfg.shards, weights if weights and "/" in weights else None) if uri]
    return [*files, *images]


def _needs(config: Config, machine: Machine, told: dict[str, Any], opened: Opened | None) -> Needs | None:
    if "network" not in told:
        return None
    precision = config.train.precision
    bf16 = _on_gpu(config, told) and all(gpu.has_bf16 for gpu in machine.gpus)
    return needs(
        config,
        Network(**told["network"]),
        num_channels=len(config.data.channels),
        image_size=_image_size(config, opened),
        half=precision in ("bf16", "fp16") or (precision == "auto" and bf16),
    )


def _uses(config: Config, spills: str | None, home: str, wanted: Needs | None) -> list[Use]:
    """What goes to local disks."""
    cfg, base, atlas = config.data, config.run.storage or "", 0
    if not (cfg.images or cfg.labels or cfg.shards):
        num_images = config.synth.num_images or 1500
        atlas = int(4 * num_images * (ATLAS_SHARE * config.synth.image_size**2 + cfg.image_size**2))
    uses = [Use("run.storage", base, wanted.folder_bytes if wanted else 0)] if is_local(base) else []
    uses.append(Use("HPA_RAY_HOME", home, atlas))
    return uses if spills is None else [*uses, Use("Ray", spills, 0)]


def _on_gpu(config: Config, told: dict[str, Any]) -> bool:
    return bool(told["cuda"]["num_gpus"]) and config.train.use_gpu is not False


def _image_size(config: Config, opened: Opened | None) -> int:
    return opened.source.image_size if opened is not None else config.data.image_size
