"""The measurement where a training would run: in this process, or in Ray Train workers. Before: measure, train."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hpa_ray import cluster
from hpa_ray.bench.rates import PHASES, Measured, Phase, Rate, Window
from hpa_ray.config import Config
from hpa_ray.stream import Data
from hpa_ray.train import on_hosts

if TYPE_CHECKING:
    from hpa_ray.train.host import Host


def run_bench(config: Config, data: Data, on_window: Callable[[Phase, Rate], None]) -> Measured:
    """Measure; on_window gets what a measurement has given so far. Raises what `on_hosts` does.

    A number of workers that may change is measured at its smallest, and a worker that is lost ends it.
    """
    fixed = {"num_workers": config.train.fewest_workers, "min_workers": None, "max_failures": 0}
    config = config.model_copy(update={"train": config.train.model_copy(update=fixed)})
    num_workers = max(1, config.train.num_workers)
    windows: dict[Phase, list[Window]] = {phase: [] for phase in PHASES}
    facts: dict[str, Any] = {}

    def hear(event: dict[str, Any]) -> None:
        match event["event"]:
            case "window":
                windows[event["phase"]].append(Window(*event["window"]))
                on_window(event["phase"], Rate(tuple(windows[event["phase"]]), num_workers))
            case "where":
                facts.update(where=event["where"], on_gpu=event["on_gpu"])
            case "first_batch":
                facts["first_batch_s"] = event["seconds"]

    on_hosts(_measure, config, data, hear)
    rates = {phase: Rate(tuple(found), num_workers) for phase, found in windows.items()}
    is_local = config.train.num_workers == 0
    facts |= {"reading_cpus": rates["read"].busy_cpus if is_local else _cpus_for_data(config)}
    return Measured(rates["train"], rates["read"], rates["both"], **facts, cpus_are_measured=is_local)


def _measure(config: Config, data: Data, host: "Host") -> None:
    from hpa_ray.bench.measure import measure

    measure(config, data, host)


def _cpus_for_data(config: Config) -> float:
    """CPUs that tasks of Ray Data may have, of nodes that can still come too: those for data, or what workers leave."""
    found = cluster.capacity("data")
    if found.is_apart:
        return found.cpus
    of_a_worker = (config.train.resources_per_worker or {}).get("CPU", 1.0)
    return max(1.0, found.cpus - config.train.num_workers * of_a_worker)
