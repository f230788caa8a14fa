"""What the nodes of a cluster have told -> findings, naming the node that differs. Before: nodes. After: examine."""

from collections.abc import Iterator, Sequence
from typing import Any

from hpa_ray.config import Config
from hpa_ray.doctor.findings import Finding, fail, gib, ok, refused, warn
from hpa_ray.doctor.limits import SPILLS_ABOVE, gpus_enough
from hpa_ray.doctor.machine import Machine
from hpa_ray.doctor.needs import PROCESS_BYTES, Needs
from hpa_ray.doctor.places import SKEW_BREAKS_S, SKEW_TOLD_S
from hpa_ray.errors import InputError
from hpa_ray.storage import shown

MUST_AGREE = ("hpa-ray", "ray", "torch")
SLOW_SHARE = 0.25
"""Of the rate of the fastest node: what is below is told."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def check_cluster(config: Config, found: dict[str, Any], how: str) -> Iterator[Finding]:
    """The cluster as a whole; how: by what it was found."""
    if not found["joined"]:
        why = "; ".join(problem.partition(" - ")[0] for problem in found["problems"])
        change = "see that Ray's version and token (RAY_AUTH_MODE) are the same there, or run this by `ray job submit`"
        yield fail("ray", f"{how}: its port is open, but it can not be joined ({why})", change)
        return
    nodes = "1 node" if len(found["nodes"]) == 1 else f"{len(found['nodes'])} nodes"
    size = f"{nodes}, {found['num_cpus']} CPUs, {found['num_gpus']} GPUs"
    if found["problems"]:
        yield from refused("ray", InputError(*(f"{how}: {size}; {problem}" for problem in found["problems"])))
    else:
        yield ok("ray", f"{how}: {size}, enough for train.num_workers = {config.train.num_workers}")
    yield from gpus_enough(config, found["num_gpus"], "the cluster")
    if found["is_open"] and found["dashboard"].rpartition(":")[0] not in LOOPBACK:
        open_to_all = f"at {found['dashboard']}, and no token is asked for: who reaches it can run programs"
        yield warn("dashboard", open_to_all, "start Ray with --dashboard-host=127.0.0.1 or RAY_AUTH_MODE=token")


def check_nodes(
    config: Config, reports: Sequence[dict[str, Any]], here: Machine, needs: Needs | None, *, in_bucket: bool
) -> Iterator[Finding]:
    """A line for everything in which a node differs, or one for all if none does. in_bucket: run.storage is one."""
    told, usual = False, _usual_gpus(here, reports)
    best_bps = max((report.get("read_bps") or 0.0 for report in reports), default=0.0)
    names = [report["node"] for report in reports]
    for number, report in enumerate(reports):
        name = f"{report['node']} ({number + 1})" if names.count(report["node"]) > 1 else report["node"]
        for finding in [
            *_check_node(report, here, in_bucket=in_bucket),
            *_capacity(config, report, usual, needs),
            *_bandwidth(report, best_bps),
        ]:
            told = True
            yield finding._replace(found=f"{name}: {finding.found}")
    if not told and reports:
        slowest = max(report["storage_s"] or 0 for report in reports)
        skew = max(abs(report["skew_s"]) for report in reports)
        free = min(report["machine"]["temp_free_bytes"] for report in reports)
        yield ok(
            "nodes",
            f"{len(reports)} with the versions of here, clocks within {max(skew, 0.1):.1f} s, run.storage written and "
            f"read in {slowest * 1000:,.0f} ms{_slowest_read(reports)}, {gib(free)} free for Ray",
        )


def _check_node(report: dict[str, Any], here: Machine, *, in_bucket: bool) -> Iterator[Finding]:
    if "error" in report:
        change = "install hpa-ray there, or submit this by `ray job submit --working-dir .`"
        yield fail("node", report["error"], change if "ModuleNotFound" in report["error"] else "look at this node")
        return
    there = Machine.from_json(report["machine"])
    yield from _versions(there, here)
    if report["storage_error"]:
        yield fail("node", f"run.storage: {report['storage_error']}", "give a folder or bucket that every node can use")
    elif not report["sees_mark"]:
        yield fail("node", "run.storage is another folder there", "give a shared folder or a bucket")
    for file, why in report["missing"].items():
        yield fail("node", f"{shown(file)}: {why}", "give a shared folder or a bucket")
    skew = report["skew_s"]
    if abs(skew) > SKEW_TOLD_S:
        text = f"its clock is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} that of here"
        yield (fail if in_bucket and abs(skew) > SKEW_BREAKS_S else warn)("node", text, "set its clock, by NTP")
    if there.temp_free_bytes < there.temp_total_bytes * (1 - SPILLS_ABOVE):
        text = f"{gib(there.temp_free_bytes)} free at {there.temp}, where Ray stops to spill"
        yield warn("node", text, "free some, or start Ray with another --temp-dir")
    if report["no_connection"]:
        text = f"can not reach a free port of {here.host} ({report['no_connection']})"
        yield warn("node", text, "workers need any port between all nodes: open the firewall among them")


def _bandwidth(report: dict[str, Any], best_bps: float) -> Iterator[Finding]:
    rate = report.get("read_bps")
    if rate and rate < best_bps * SLOW_SHARE:
        text = f"reads run.storage at {rate / 2**20:,.0f} MiB/s, another node at {best_bps / 2**20:,.0f}"
        yield warn("node", text, "see whether it is in the region of the bucket, and what else uses its network")


def _slowest_read(reports: Sequence[dict[str, Any]]) -> str:
    rates = [report["read_bps"] for report in reports if report.get("read_bps")]
    return f", read at {min(rates) / 2**20:,.0f} MiB/s and more" if rates else ""


def _versions(there: Machine, here: Machine) -> Iterator[Finding]:
    if there.python.split(".")[:2] != here.python.split(".")[:2]:
        yield fail("node", f"python {there.python}, here {here.python}", "the same on all nodes")
    for package, version in here.packages.items():
        if there.packages[package] != version:
            text = f"{package} {there.packages[package] or 'is missing'}, here {version}"
            yield (fail if package in MUST_AGREE else warn)("node", text, "the same on all nodes")


def _usual_gpus(here: Machine, reports: Sequence[dict[str, Any]]) -> set[str]:
    """Names of the GPUs of the first machine that has any."""
    machines = [here, *(Machine.from_json(report["machine"]) for report in reports if "machine" in report)]
    return next(({gpu.name for gpu in machine.gpus} for machine in machines if machine.gpus), set())


def _capacity(config: Config, report: dict[str, Any], usual: set[str], needs: Needs | None) -> Iterator[Finding]:
    """usual: the GPUs that the other nodes have."""
    if "error" in report:
        return
    there = Machine.from_json(report["machine"])
    if there.has_driver and config.train.use_gpu is not False:
        names = {gpu.name for gpu in there.gpus}
        if names != usual:
            text = f"GPUs: {' and '.join(sorted(names)) or 'none that works'}, elsewhere {' and '.join(sorted(usual))}"
            yield warn("node", text, "the slowest worker sets the pace")
        if report["ray_gpus"] != len(there.gpus):
            text = f"Ray counts {report['ray_gpus']} GPUs, the driver {len(there.gpus)}"
            yield warn("node", text, "start Ray there with --num-gpus, and without CUDA_VISIBLE_DEVICES")
    if config.train.compile and not there.has_compiler:
        yield fail("node", "train.compile=true, but there is no C++ compiler", "install g++ there, or leave it out")
    wanted = PROCESS_BYTES + (needs.about_bytes if needs is not None and not there.gpus else 0)
    if there.available_bytes is not None and there.available_bytes < wanted:
        text = f"{gib(there.available_bytes)} of memory available, a worker takes about {gib(wanted)}"
        yield warn("node", text, "give a smaller train.batch_size, or end other programs there")
