"""Where the loop runs: the small context it knows, and the one without Ray."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import torch
from torch import nn

from hpa_ray.cluster import available_cpus
from hpa_ray.schema import Source
from hpa_ray.stream import Batch, Schedule, local_feed

Event = dict[str, Any]
Notice = Literal["", "leaving", "stop"]
"""Whether a machine of the run is about to go away: no; one is, and the run goes on elsewhere; this one must stop."""


class Host(Protocol):
    """What the training loop needs to know of where it runs. Every rank makes the same calls in the same order."""

    rank: int
    world_size: int
    device: torch.device

    def feed(self, source: Source, schedule: Schedule) -> Iterator[Batch]:
        """This rank's batches, in order."""
        ...

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all ranks."""
        ...

    def equalize(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0: batch statistics drift apart, and one model is what is validated."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank, on every rank."""
        ...

    def tell(self, event: Event) -> None:
        """Pass something to show on to the driver; rank 0 only."""
        ...

    def end_epoch(self, metrics: Event) -> None:
        """All ranks have finished an epoch and its checkpoint is stored."""
        ...

    def notice(self) -> Notice:
        """The same answer on every rank."""
        ...

    def give_up(self, event: Event) -> None:
        """Tell the driver, from any rank and any thread, why this process is about to end."""
        ...


class LocalHost:
    """This process, one worker, no Ray."""

    rank, world_size = 0, 1

    def __init__(
        self,
        use_gpu: bool | None,
        prefetch: int,
        show: Callable[[Event], None],
        must_stop: Callable[[], bool] = lambda: False,
        *,
        num_threads: int | None = None,
    ) -> None:
        gpu = torch.cuda.is_available() if use_gpu is None else use_gpu
        self.device = torch.device("cuda" if gpu else "cpu")
        self.prefetch, self.tell, self.give_up, self.must_stop = prefetch, show, show, must_stop
        torch.set_num_threads(num_threads or available_cpus())

    def feed(self, source: Source, schedule: Schedule) -> Iterator[Batch]:
        return local_feed(source, schedule, prefetch=self.prefetch)

    def parallel(self, model: nn.Module) -> nn.Module:
        return model

    def equalize(self, model: nn.Module) -> None:
        pass

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def end_epoch(self, metrics: Event) -> None:
        pass

    def notice(self) -> Notice:
        return "stop" if self.must_stop() else ""


class DistributedHost:
    """One of several processes in torch's process group, which is there already.

    What is left to say: feed, tell, notice, give_up. exact: gradients are summed in the same order in every step.
    """

    def __init__(self, device: torch.device, *, exact: bool = False) -> None:
        self.device, self.exact = device, exact
        grouped = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if grouped else 0
        self.world_size = torch.distributed.get_world_size() if grouped else 1

    def parallel(self, model: nn.Module) -> nn.Module:
        if self.world_size == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        # after its first step DDP would sort the gradients anew, and a sum over more than two ranks round otherwise
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, find_unused_parameters=self.exact)

    def equalize(self, model: nn.Module) -> None:
        if self.world_size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def gather(self, value: Any) -> list[Any]:
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values
