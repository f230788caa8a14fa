"""What a measurement gives: windows of some steps each, and the rates they add up to. After: verdict, plan."""

from typing import Any, Literal, NamedTuple

Phase = Literal["train", "read", "both"]
PHASES: tuple[Phase, ...] = ("train", "read", "both")
"""In this order: what is read ahead while nothing is read would be no speed of reading."""


class Window(NamedTuple):
    """Some steps in a row, the same number of every worker."""

    steps: int
    images: int
    """Of all workers."""
    seconds: float
    """Of the slowest worker."""
    wait_s: float
    """In which the next batch was waited for, mean over the workers."""
    cpu_s: float
    """CPU time of the workers' processes with all their threads, together."""

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


class Rate(NamedTuple):
    """One measurement. Rates are sums of images over sums of seconds, never means of rates."""

    windows: tuple[Window, ...]
    num_workers: int

    @property
    def seconds(self) -> float:
        return sum(window.seconds for window in self.windows)

    @property
    def images_per_s(self) -> float:
        """Of all workers."""
        return self.num_images / self.seconds

    @property
    def num_images(self) -> int:
        return sum(window.images for window in self.windows)

    @property
    def per_worker(self) -> float:
        return self.images_per_s / self.num_workers

    @property
    def lowest(self) -> float:
        return min(window.images_per_s for window in self.windows)

    @property
    def highest(self) -> float:
        return max(window.images_per_s for window in self.windows)

    @property
    def wait_pct(self) -> float:
        return 100 * sum(window.wait_s for window in self.windows) / self.seconds

    @property
    def busy_cpus(self) -> float:
        """CPU seconds of the workers' processes in a second."""
        return sum(window.cpu_s for window in self.windows) / self.seconds

    def as_json(self) -> dict[str, Any]:
        return {
            "images_per_s": round(self.images_per_s, 2),
            "images_per_s_per_worker": round(self.per_worker, 2),
            "images_per_s_lowest": round(self.lowest, 2),
            "images_per_s_highest": round(self.highest, 2),
            "data_wait_pct": round(self.wait_pct, 2),
            "busy_cpus": round(self.busy_cpus, 3),
            "seconds": round(self.seconds, 3),
            "num_windows": len(self.windows),
            "num_steps": sum(window.steps for window in self.windows),
        }


class Measured(NamedTuple):
    """All of a benchmark."""

    train: Rate
    read: Rate
    both: Rate
    where: str
    """Workers, device and precision in words."""
    on_gpu: bool
    first_batch_s: float
    """From the start of the feed to its first batch."""
    reading_cpus: float
    """In use while reading; where that is not measured, as of Ray's tasks, all that they may have."""
    cpus_are_measured: bool
