"""The state of a run within an epoch: when it is stored, what of the epoch is in it, and who writes it. Before: loop.

After: checkpoint/run_folder.
"""

import hashlib
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import checkpoint_interval
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.schema import Reject
from hpa_ray.stream import Data, Place, Steps
from hpa_ray.train.host import Host
from hpa_ray.train.record import Seen, Watcher

AGREE_EVERY = 8
"""Optimizer steps after which the ranks ask rank 0 whether to store: by the clock they would not agree."""
LOOK_EVERY_S = 5.0
"""How often the ranks ask whether a machine is about to go away."""


class Tally:
    """What an epoch has given so far on this rank."""

    def __init__(self, device: torch.device, max_scored: int) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.num_images = 0
        self.seen = Watcher(max_scored)

    def add(self, rows_B: np.ndarray, losses_B: torch.Tensor, logits_BK: torch.Tensor) -> None:
        self.loss_sum += losses_B.sum(dtype=torch.float64)
        self.num_images += len(losses_B)
        self.seen.add(rows_B, logits_BK)

    def taken(self) -> "Taken":
        return Taken(float(self.loss_sum), self.num_images, self.seen.take())

    def load(self, taken: "Taken") -> None:
        self.loss_sum.fill_(taken.loss_sum)
        self.num_images = taken.num_images
        self.seen.add(taken.seen.rows_N, torch.from_numpy(taken.seen.logits_NK).to(self.loss_sum.device))


class Taken(NamedTuple):
    """The sums of a tally, to be sent or stored."""

    loss_sum: float
    num_images: int
    seen: Seen


class Saver:
    """Stores checkpoints within epochs: all ranks decide together, rank 0 writes in the background, one at a time."""

    def __init__(self, every: str, host: Host, folder: RunFolder) -> None:
        self.every_steps, self.every_s = checkpoint_interval(every)
        self.host, self.folder = host, folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._saved_at = self._looked_at = time.monotonic()
        self._groups = 0
        self._warned = False  # by the last look
        self.is_last = False
        """The machine wants this process to end: after the checkpoint that is asked for now, it does."""

    def wanted(self, steps_before: int, steps_done: int) -> bool:
        """After an optimizer step that took the epoch's steps done from one number to the other: is it time?

        Every rank calls it and gets the same answer.
        """
        self._groups += 1
        is_due = bool(self.every_steps) and steps_done // self.every_steps > steps_before // self.every_steps
        if self._groups % AGREE_EVERY:
            return is_due
        now = time.monotonic()
        overdue = bool(self.every_s) and now - self._saved_at >= self.every_s
        agreed, look = self.host.gather((overdue and not self._is_writing, now - self._looked_at >= LOOK_EVERY_S))[0]
        if look:
            self._looked_at = now
            notice = self.host.notice()
            agreed |= bool(notice) and not self._warned
            self._warned, self.is_last = bool(notice), notice == "stop"
        return bool(is_due or agreed)

    def save(self, place: Place, state: dict[str, Any]) -> None:
        """Rank 0: copy the state and write it while training goes on. Raises what the write before it raised."""
        self.finish()
        self._saved_at = time.monotonic()
        kept, seen = copied(state), place.samples_seen
        self._writing = self._pool.submit(self.folder.save_checkpoint, place.epoch, kept, samples_seen=seen)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()  # what is being written is worth a moment, whatever ends the run

    def finish(self) -> None:
        """Wait for what is being written. Raises what it raised."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    @property
    def _is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()


def place_state(place: Place, parts: list[Taken], rejects: dict[int, Reject]) -> dict[str, Any]:
    """What a checkpoint holds of where the run is; tensors and plain values only. parts: of the ranks, in order."""
    return {
        "epoch": place.epoch,
        "samples_seen": place.samples_seen,
        "step": place.step,
        "first": place.steps.first,
        "world_size": place.steps.world_size,
        "sums": [(part.loss_sum, part.num_images) for part in parts],
        "rows": [torch.from_numpy(part.seen.rows_N) for part in parts],
        "logits": [torch.from_numpy(part.seen.logits_NK) for part in parts],
        "rejects": json.dumps(list(rejects.values())),
    }


def place_of(state: dict[str, Any], steps: Steps) -> Place:
    """Where to go on. With as many workers as before the steps stay what they were, else what is left is cut anew."""
    if state["world_size"] == steps.world_size:
        return Place(state["epoch"], replace(steps, first=state["first"]), state["step"])
    return Place(state["epoch"], replace(steps, first=state["samples_seen"]))


def taken_of(state: dict[str, Any], rank: int, world_size: int) -> Taken:
    """What a rank had taken of the epoch; with another number of workers, all of it is rank 0's."""
    pairs = zip(state["sums"], state["rows"], state["logits"], strict=True)
    parts = [Taken(loss_sum, count, Seen(rows.numpy(), logits.numpy())) for (loss_sum, count), rows, logits in pairs]
    if len(parts) == world_size:
        return parts[rank]
    if rank or not parts:
        return Taken(0.0, 0, Seen(np.empty(0, np.int64), np.empty((0, NUM_CLASSES), np.float32)))
    return Taken(
        sum(part.loss_sum for part in parts),
        sum(part.num_images for part in parts),
        Seen.join([part.seen for part in parts]),
    )


def rejects_of(state: dict[str, Any]) -> dict[int, Reject]:
    rejects = [Reject(*values) for values in json.loads(state["rejects"])]
    return {reject.row: reject for reject in rejects}


def newest_checkpoint(host: Host, folder: RunFolder) -> dict[str, Any] | None:
    """The state that rank 0 finds, on every rank. Raises InputError if the folder is not the same one everywhere."""
    names = folder.checkpoints()
    newest = host.gather(names[-1] if names else None)
    chosen = newest[0]
    if not all(host.gather(chosen in names if chosen else not names)):
        found = ", ".join(str(name or "none") for name in newest)
        raise InputError(
            f"run.storage: {folder.uri} is not the same folder on all machines (newest checkpoints: {found}) - "
            "give a shared folder or a bucket"
        )
    return folder.load_checkpoint(chosen) if chosen else None


def digest(data: Data) -> str:
    """Of all that says which image is which sample: ids, labels and parts."""
    found = hashlib.sha256(pa.record_batch([data.image_ids], ["id"]).serialize())
    found.update(data.targets_NK.tobytes())
    for part, rows in sorted(data.parts.items()):
        found.update(part.encode())
        found.update(rows.tobytes())
    return found.hexdigest()


def copied(value: Any) -> Any:
    """A copy in the memory of the CPU that later training steps do not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    return value
