"""Which of reading and training is the limit, and what reading needs. Before: rates. After: plan."""

import math
from typing import Any, Literal, NamedTuple

from hpa_ray.bench.rates import Measured

TOGETHER = 0.9
"""Of the slower one alone: where both at once reach less, they are in each other's way."""
LEAST_CPU = 0.7
"""Of one, that a worker on CPUs has while it trains, if the machine has nothing else to do."""


class Verdict(NamedTuple):
    limit: Literal["data", "device"]
    read_per_train: float
    """Images read for each image trained on, each measured alone; below 1 data are the limit."""
    device_idle_pct: float
    """Of its time the device does not train: what training on the feed falls short of training on one batch. Where the
    device is the CPUs, what reading takes of them is in it."""
    together: float
    """Rate of both at once over that of the slower one alone."""
    reading_cpus: float
    """In use while reading was measured."""
    cpus_needed: float
    """reading_cpus x rate of training / rate of reading."""
    nodes_needed: int
    """Of bench.cpus_per_node."""

    def as_json(self) -> dict[str, Any]:
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in self._asdict().items()}


def judge(measured: Measured, *, cpus_per_node: int) -> Verdict:
    train, read, both = (rate.images_per_s for rate in (measured.train, measured.read, measured.both))
    needed = measured.reading_cpus * train / read
    return Verdict(
        limit="data" if read < train else "device",
        read_per_train=read / train,
        device_idle_pct=100 * max(0.0, 1 - both / train),
        together=both / min(read, train),
        reading_cpus=measured.reading_cpus,
        cpus_needed=needed,
        nodes_needed=nodes_of(needed, cpus_per_node),
    )


def nodes_of(cpus: float, cpus_per_node: int) -> int:
    """Whole nodes that hold so many CPUs; a billionth too much, as fractions come, is not one more."""
    return math.ceil(cpus / cpus_per_node * (1 - 1e-9))


def in_words(verdict: Verdict, measured: Measured, *, cpus_per_node: int) -> list[str]:
    """Lines for the screen."""
    who = "data are the limit" if verdict.limit == "data" else "the device is the limit"
    read_per_train = (
        f"{verdict.read_per_train:.2g}" if verdict.read_per_train < 10 else f"{verdict.read_per_train:,.0f}"
    )
    idle = f"{verdict.device_idle_pct:.0f} %"
    both = f"the device is without work {idle} of the time" if measured.on_gpu else f"training is {idle} slower"
    lines = [f"{who}: alone, reading gives {read_per_train} times the images that training takes; both at once, {both}"]
    if verdict.together < TOGETHER:
        shared = "" if measured.on_gpu else ", such as the CPUs, which here are the device too"
        lines.append(
            f"both at once reach {100 * verdict.together:.0f} % of the slower one alone: they share something{shared}, "
            "or the machine had other work"
        )
    nodes = f"{verdict.nodes_needed:,} node{'s' * (verdict.nodes_needed != 1)} of {cpus_per_node} CPUs"
    lines.append(
        f"to keep the device{'s' * (measured.train.num_workers > 1)} busy, reading needs {_cpus(verdict.cpus_needed)} "
        f"({nodes}); {'it used' if measured.cpus_are_measured else 'it may use'} {_cpus(verdict.reading_cpus)}"
    )
    had = measured.train.busy_cpus / measured.train.num_workers
    if not measured.on_gpu and had < LEAST_CPU:
        lines.append(
            f"note: a worker had {had:.2f} CPUs while it trained: the machine is busy with something else, or lends no "
            "more than that - these rates are not its own"
        )
    return lines


def _cpus(number: float) -> str:
    return f"{number:.2g} CPUs" if number < 10 else f"{number:,.0f} CPUs"
