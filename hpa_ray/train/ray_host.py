"""The host of the loop in a Ray Train worker: gradients by DDP, batches by Ray Data."""

from collections.abc import Iterator
from typing import Any

import ray.train
import ray.train.torch
import torch

from hpa_ray.cluster import available_cpus
from hpa_ray.schema import Source
from hpa_ray.stream import Batch, Schedule, ray_feed
from hpa_ray.train.host import DistributedHost, Event, Notice

GIVE_UP_S = 10.0


class RayHost(DistributedHost):
    """One of several Ray Train workers: gradients by DDP, batches by Ray Data."""

    def __init__(self, prefetch: int, mailbox: Any, *, exact: bool) -> None:
        super().__init__(ray.train.torch.get_device(), exact=exact)
        context = ray.train.get_context()
        self.prefetch, self.mailbox = prefetch, mailbox
        # Ray tells every library to use one thread per logical CPU of the worker; all cores are ours to share
        torch.set_num_threads(max(1, available_cpus() // context.get_local_world_size()))

    def feed(self, source: Source, schedule: Schedule) -> Iterator[Batch]:
        image_bytes = len(source.channels) * source.image_size**2
        batch_bytes = schedule.steps.batch_size * image_bytes
        return ray_feed(source, schedule, prefetch=self.prefetch, batch_bytes=batch_bytes)

    def tell(self, event: Event) -> None:
        self.mailbox.put.remote(event)

    def end_epoch(self, metrics: Event) -> None:
        # a barrier over the ranks, and a sign of life for the controller; the state itself is in the run folder
        ray.train.report({"epoch": metrics.get("epoch", 0)})

    def notice(self) -> Notice:
        leaving = ray.train.get_preemption_info() is not None  # agreed on among the ranks
        asked = self.rank == 0 and ray.get(self.mailbox.must_stop.remote())
        return "stop" if self.gather(asked)[0] else "leaving" if leaving else ""

    def give_up(self, event: Event) -> None:
        ray.get(self.mailbox.put.remote(event), timeout=GIVE_UP_S)
