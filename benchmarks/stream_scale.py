"""Does the order hold at 1,024 workers and ten million images, and what does it ask of storage and processes?

    uv run benchmarks/stream_scale.py                                # three minutes on one core, 1.1 GiB
    uv run benchmarks/stream_scale.py --workers 64 --images 1000000 --epochs 3 --shard-images 128

No pixels, no Ray, nothing is written: the schedules of all workers are worked out item by item as a run does it, and
compared with what an epoch should hold. For every way of sampling:

- epoch: every worker, every step. Each image comes as often as it should, validation images once, the workers' shares
  of a step differ by at most one image;
- resumed: stopped at --stop of the last epoch and gone on with as many workers: the items are those of the run that was
  not stopped (some workers only, as told);
- handed over: stopped there and gone on with --resume-workers: both parts together hold what the epoch should.

Then what one worker reads (some workers only), what a process holds, and how long it takes. Rates follow from --rate.
What breaks ends the program with AssertionError.
"""

import argparse
import pickle
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from hpa_ray.channels import STAIN_ORDER, STAINS
from hpa_ray.cluster.data import SHARED_KEPT
from hpa_ray.config import SamplingConfig
from hpa_ray.ingest.stack import RESIZE_RULE
from hpa_ray.labels import NUM_CLASSES, VOCABULARY
from hpa_ray.shards import CHUNK_ROWS, ShardEntry, ShardIndex, ShardSource
from hpa_ray.shards.format import FORMAT, FORMAT_VERSION
from hpa_ray.shards.reader import _open_shard
from hpa_ray.stream import EpochOrder, Place, Sampling, Schedule, Steps
from hpa_ray.stream.feed import ITEMS_PER_TASK, TASK_BYTES
from hpa_ray.stream.order import _chunks
from hpa_ray.stream.sampling import _epoch_list, expected_copies

# N training images, K classes, W workers, T steps, B batch

Name = Literal["none", "repeat_factor", "class_balanced"]
NAMES: tuple[Name, ...] = ("none", "repeat_factor", "class_balanced")
MOST_COMMON, RAREST = 0.41, 0.00035
"""Shares of images of the competition's classes: 1,171 : 1; those between are laid out evenly in the logarithm."""
GETS_PER_PREFIX = 5500
"""Requests a second that S3 documents per prefix."""
HEADER_BYTES = 2048
"""About what stands before the pixels of a record batch."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    workers: int
    images: int
    val_images: int
    epochs: int
    shard_images: int
    batch: int
    image_px: int
    seed: int = 0

    @property
    def row_bytes(self) -> int:
        return len(STAINS) * self.image_px**2

    @property
    def batches_per_task(self) -> int:
        """As stream/feed cuts tasks."""
        return max(1, min(ITEMS_PER_TASK, TASK_BYTES // (self.batch * self.row_bytes)))


class Parts(NamedTuple):
    train: np.ndarray  # manifest rows, ascending
    val: np.ndarray


class Epoch(NamedTuple):
    """What all workers emit in one epoch."""

    times_N: np.ndarray  # uint16: how often each training image came
    early_N: np.ndarray  # the same before the stop
    sizes_WT: np.ndarray  # images of each worker in each step
    seconds: float


class Reads(NamedTuple):
    """What some workers read in one epoch; means per worker and step where not said otherwise."""

    workers: int
    images: float
    gets: float
    joined: float
    """Requests if those of neighbours in a file were one."""
    batches: float
    """Record batches."""
    shards: float
    shards_per_epoch: float


# what is read


def parts_of(scale: Scale) -> Parts:
    """The validation part lies scattered over the shards, as a split leaves it."""
    total = scale.images + scale.val_images
    is_val = np.zeros(total, bool)
    is_val[np.random.default_rng([scale.seed, 9]).choice(total, scale.val_images, replace=False)] = True
    return Parts(np.flatnonzero(~is_val), np.flatnonzero(is_val))


def source_of(scale: Scale) -> ShardSource:
    """Shards that are nowhere, with the index that they would have."""
    total = scale.images + scale.val_images
    step = HEADER_BYTES + CHUNK_ROWS * scale.row_bytes
    entries = []
    for number, start in enumerate(range(0, total, scale.shard_images)):
        rows = min(scale.shard_images, total - start)
        offsets = tuple(HEADER_BYTES + k * step for k in range(-(-rows // CHUNK_ROWS)))
        num_bytes = offsets[-1] + CHUNK_ROWS * scale.row_bytes + HEADER_BYTES
        name = f"shard-{number:05d}.arrow"
        entries.append(ShardEntry(file=name, rows=rows, bytes=num_bytes, sha256=f"{number:064x}", offsets=offsets))
    index = ShardIndex(
        format=FORMAT,
        version=FORMAT_VERSION,
        vocabulary=VOCABULARY,
        stain_order=STAIN_ORDER,
        channels=STAINS,
        image_size=scale.image_px,
        resize_rule=RESIZE_RULE,
        white_level=65535,
        fingerprint="benchmark",
        num_images=total,
        num_rejected=0,
        mean=(0.1,) * len(STAINS),
        std=(0.1,) * len(STAINS),
        sources=(),
        class_counts=(0,) * NUM_CLASSES,
        chunk_rows=CHUNK_ROWS,
        shards=tuple(entries),
        manifest_sha256="",
        checksums_sha256="",
    )
    return ShardSource("s3://bucket/shards", index, STAINS)


def copies_of(name: Name, scale: Scale) -> np.ndarray | None:
    """Expected copies of each training image, (N,), for drawn labels with a long tail."""
    if name == "none":
        return None
    rng = np.random.default_rng([scale.seed, 8])
    share_K = np.geomspace(MOST_COMMON, RAREST, NUM_CLASSES)
    targets_NK = np.empty((scale.images, NUM_CLASSES), np.uint8)
    for k, share in enumerate(share_K):
        targets_NK[:, k] = rng.random(scale.images, np.float32) < share
    return expected_copies(SamplingConfig(name=name), targets_NK)


def schedules_of(scale: Scale, parts: Parts, sampling: Sampling, start: Place | None = None) -> list[Schedule]:
    """One for each worker of `start`, as train/loop makes them."""
    order = EpochOrder(sampling.num_samples, scale.seed, chunk_rows=CHUNK_ROWS)
    steps = Steps(order.num_rows, scale.batch, start.steps.world_size if start else scale.workers)
    begin = start or Place(0, steps)
    return [
        Schedule(parts.train, parts.val, sampling, order, steps, rank, begin, scale.epochs)
        for rank in range(steps.world_size)
    ]


# checks


def emitted(schedules: Sequence[Schedule], epoch: int, num_manifest: int, *, stop: int = 0) -> Epoch:
    """All training items of one epoch, worker by worker; `stop`: the step before which images count as early."""
    first = schedules[0]
    begin = first.start.step if epoch == first.start.epoch else 0
    steps = first.start.steps if epoch == first.start.epoch else first.steps
    num_steps = steps.per_epoch - begin
    times_M, early_M = np.zeros(num_manifest, np.uint16), np.zeros(num_manifest, np.uint16)
    sizes_WT, wanted_T = np.zeros((len(schedules), num_steps), np.int32), np.zeros(num_steps, np.int64)
    started = last = time.perf_counter()
    for rank, schedule in enumerate(schedules):
        before = 0  # which is not the same for all: shares of the validation may take a batch more or less
        if epoch > schedule.start.epoch:
            before = len(schedule) - (schedule.num_epochs - epoch) * schedule.items_per_epoch
        items = [schedule[before + k] for k in range(num_steps)]
        assert {(item.kind, item.epoch) for item in items} == {("train", epoch)}
        assert [item.step for item in items] == list(range(begin, steps.per_epoch))
        sizes_WT[rank] = [len(item.rows_B) for item in items]
        wanted_T[:] = [item.step_size for item in items]
        np.add.at(times_M, np.concatenate([item.rows_B for item in items]), 1)
        if early := [item.rows_B for item in items if item.step < stop]:
            np.add.at(early_M, np.concatenate(early), 1)
        if time.perf_counter() - last > 10:
            last = time.perf_counter()
            print(f"    {rank + 1} of {len(schedules)} workers, {last - started:.0f} s", flush=True)
    seconds = time.perf_counter() - started
    assert (sizes_WT.sum(axis=0) == wanted_T).all(), "the shares of a step are not the step"
    assert np.ptp(wanted_T) <= 1, "steps differ by more than one image"
    assert (np.ptp(sizes_WT, axis=0) <= 1).all(), "the workers' shares of a step differ by more than one image"
    assert sizes_WT.max() <= first.steps.batch_size
    train = first.train_rows
    assert times_M.sum() == times_M[train].sum(), "images of another part"
    return Epoch(times_M[train], early_M[train], sizes_WT, seconds)


def check_times(times_N: np.ndarray, sampling: Sampling) -> None:
    """Every image came as often as an epoch should hold it."""
    assert int(times_N.sum(dtype=np.int64)) == sampling.num_samples
    if sampling.copies_N is None:
        assert (times_N == 1).all(), "an image was lost or came twice"
    else:
        assert (np.abs(times_N - sampling.copies_N) < 1).all(), "an image came too often or not often enough"


def check_validation(schedules: Sequence[Schedule]) -> None:
    rows = [schedule.validation[k].rows_B for schedule in schedules for k in range(len(schedule.validation))]
    assert np.array_equal(np.concatenate(rows), schedules[0].val_rows), "validation lost an image or has one twice"


def check_resumed(straight: Schedule, place: Place, *, at_most: int) -> int:
    """The first items after a stop are those of the run without one; how many were compared."""
    resumed = replace(straight, start=place)
    offset = len(straight) - len(resumed)
    for k in range(min(at_most, len(resumed))):
        one, other = straight[offset + k], resumed[k]
        assert (one.kind, one.epoch, one.step, one.step_size) == (other.kind, other.epoch, other.step, other.step_size)
        assert np.array_equal(one.rows_B, other.rows_B)
        assert np.array_equal(one.seeds_B, other.seeds_B)
    return min(at_most, len(resumed))


def some(schedules: Sequence[Schedule], count: int) -> list[Schedule]:
    """The first, the last and some between."""
    ranks = np.unique(np.linspace(0, len(schedules) - 1, min(count, len(schedules))).round().astype(int))
    return [schedules[rank] for rank in ranks]


# requests and memory


def reads_of(schedules: Sequence[Schedule], source: ShardSource, row_bytes: int) -> Reads:
    """As stream/feed and shards/reader ask for them: an image that stands in a batch twice is read once."""
    totals, over_epoch, num_items = np.zeros(5), 0, 0
    for schedule in schedules:
        seen: set[int] = set()
        for k in range(schedule.steps.per_epoch):
            rows = np.unique(schedule[k].rows_B)
            shards, offsets = source._locate(rows, row_bytes)
            follows = (np.diff(shards) == 0) & (np.diff(offsets) == row_bytes)
            batches = np.unique(rows // CHUNK_ROWS)
            distinct = np.unique(shards).tolist()
            seen.update(distinct)
            counts = (len(schedule[k].rows_B), len(rows), len(rows) - follows.sum(), len(batches), len(distinct))
            totals += counts
            num_items += 1
        over_epoch += len(seen)
    return Reads(len(schedules), *(totals / num_items).tolist(), over_epoch / len(schedules))


def opened_per_image(schedules: Sequence[Schedule], source: ShardSource, row_bytes: int, *, items: int) -> float:
    """Shards that a process opens per image it reads, when it has read for a while and serves any of the workers.

    From a bucket, opening one is a HEAD request.
    """
    maxsize = _open_shard.cache_parameters()["maxsize"]
    opened: OrderedDict[int, None] = OrderedDict()
    rng = np.random.default_rng(0)
    num_opened = num_images = 0
    per_epoch = schedules[0].steps.per_epoch
    for number in range(items):
        rank, step = rng.integers(len(schedules)), number * per_epoch // items
        rows = np.unique(schedules[rank][step].rows_B)
        shards, _ = source._locate(rows, row_bytes)
        for shard in shards.tolist():
            missed = shard not in opened
            opened[shard] = None
            opened.move_to_end(shard)
            if maxsize is not None and len(opened) > maxsize:
                opened.popitem(last=False)
            num_opened += missed and number >= items // 2
        num_images += len(rows) * (number >= items // 2)
    return num_opened / num_images


def show_memory(scale: Scale, schedule: Schedule, source: ShardSource) -> None:
    """What goes to a process that reads for a worker, and what it works out."""
    buffers: list[pickle.PickleBuffer] = []
    start = time.perf_counter()
    head = pickle.dumps((source, schedule), protocol=5, buffer_callback=buffers.append)
    packed = time.perf_counter() - start
    start = time.perf_counter()
    there, _ = pickle.loads(head, buffers=buffers)
    there._locate(np.arange(1), scale.row_bytes)  # which sums up the rows of all shards
    unpacked = time.perf_counter() - start
    arrays = sum(buffer.raw().nbytes for buffer in buffers)
    fetches = max(0.0, 1 - SHARED_KEPT / scale.workers)
    line("shared by each worker's pipeline", f"{arrays / 2**20:.0f} MiB of arrays + {len(head) / 2**20:.1f} MiB")
    line("  of all workers", f"{scale.workers * (arrays + len(head)) / 2**30:.1f} GiB")
    line("  packed, unpacked", f"{1000 * packed:.0f} ms, {1000 * unpacked:.0f} ms")
    line(f"  tasks that unpack it, {SHARED_KEPT} being kept", f"{100 * fetches:.0f} % if any process serves any worker")
    forget_orders()
    start = time.perf_counter()
    item = schedule[0]
    first = time.perf_counter() - start
    forget_orders()
    tracemalloc.start()  # makes it slower
    schedule[0]
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    start = time.perf_counter()
    for k in range(min(200, schedule.steps.per_epoch)):
        item = schedule[k]
    later = (time.perf_counter() - start) / min(200, schedule.steps.per_epoch)
    assert len(item.rows_B)
    line(
        "order of an epoch in a process", f"{kept / 2**20:.0f} MiB kept, {peak / 2**20:.0f} MiB at most, {first:.2f} s"
    )
    line("an item after that", f"{1e6 * later:.0f} us, {schedule.steps.per_epoch * later:.2f} s an epoch and worker")


def forget_orders() -> None:
    _chunks.cache_clear()
    _epoch_list.cache_clear()


def show_requests(scale: Scale, reads: Reads, heads: float, steps: Steps, rate: float) -> None:
    """Per worker and step, and what the rate makes of it."""
    line(
        f"a step of a worker (mean of {reads.workers} workers)",
        f"{reads.images:.1f} images, {reads.gets:.1f} GET in {reads.shards:.1f} shards; joined {reads.joined:.1f}",
    )
    line("shards a worker reads in an epoch", f"{reads.shards_per_epoch:.0f} of {num_shards(scale)}")
    line(
        "read amplification",
        f"{reads.gets / reads.images:.3f}; {reads.batches * CHUNK_ROWS / reads.images:.1f} if by record batch",
    )
    line("shards opened (HEAD) per image", f"{heads:.2f}, with {_open_shard.cache_parameters()['maxsize']} kept open")
    tasks = -(-steps.per_epoch // scale.batches_per_task)
    line(
        "tasks of an epoch",
        f"{tasks:,} a worker, {tasks * scale.workers:,} in all, {scale.batches_per_task} batches each",
    )
    images = rate * scale.workers
    gets, looks = images * reads.gets / reads.images, images * heads
    line(f"at {rate:g} images/s a worker", f"{images:,.0f} images/s, an epoch in {steps.num_rows / images:.0f} s")
    line("  from storage", f"{gets:,.0f} GET/s + {looks:,.0f} HEAD/s, {gets * scale.row_bytes / 1e9:,.1f} GB/s")
    line(f"  prefixes of {GETS_PER_PREFIX:,} a second", f"{(gets + looks) / GETS_PER_PREFIX:.1f}")
    line("  tasks", f"{images / (scale.batch * scale.batches_per_task):,.0f} a second")


def num_shards(scale: Scale) -> int:
    return -(-(scale.images + scale.val_images) // scale.shard_images)


def line(name: str, text: str) -> None:
    print(f"  {name:<48}{text}", flush=True)


# the program


def simulate(
    name: Name, scale: Scale, parts: Parts, source: ShardSource, *, stop: float, resume_workers: int, sample: int
) -> tuple[Schedule, Reads, float]:
    """All checks of one way of sampling; the schedule of the first worker, what workers read, shards opened."""
    start = time.perf_counter()
    sampling = Sampling(scale.images, scale.seed, copies_of(name, scale))
    schedules = schedules_of(scale, parts, sampling)
    steps = schedules[0].steps
    print(f"{name}: {sampling.num_samples:,} images in {steps.per_epoch} steps, {time.perf_counter() - start:.1f} s")
    stop_step = min(steps.per_epoch - 1, max(1, round(stop * steps.per_epoch)))
    num_manifest = len(parts.train) + len(parts.val)
    check_validation(schedules)
    for epoch in range(scale.epochs):
        found = emitted(schedules, epoch, num_manifest, stop=stop_step)
        check_times(found.times_N, sampling)
        times = found.times_N
        line(
            f"epoch {epoch}: {len(schedules)} workers x {found.sizes_WT.shape[1]} steps",
            f"each image {times.min()} to {times.max()} times as due; shares {found.sizes_WT.min()} to "
            f"{found.sizes_WT.max()}; {found.seconds:.0f} s",
        )
    place = Place(scale.epochs - 1, steps, stop_step)
    few = some(schedules, sample)
    compared = sum(check_resumed(schedule, place, at_most=steps.per_epoch) for schedule in few)
    line(f"resumed after {place.samples_seen:,} images", f"{compared:,} items of {len(few)} workers are the same")
    handed = Place(scale.epochs - 1, Steps(sampling.num_samples, scale.batch, resume_workers, first=place.samples_seen))
    rest = emitted(schedules_of(scale, parts, sampling, handed), scale.epochs - 1, num_manifest)
    assert np.array_equal(found.early_N + rest.times_N, found.times_N), "handed over, the epoch holds something else"
    line(
        f"handed over to {resume_workers} workers",
        f"the same epoch in {stop_step} + {rest.sizes_WT.shape[1]} steps; shares {rest.sizes_WT.min()} to "
        f"{rest.sizes_WT.max()}; {rest.seconds:.0f} s",
    )
    reads = reads_of(few, source, scale.row_bytes)
    heads = opened_per_image(schedules, source, scale.row_bytes, items=2000)
    return schedules[0], reads, heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1024)
    parser.add_argument("--images", type=int, default=10_000_000, help="of the training part")
    parser.add_argument("--val-images", type=int, help="default: a fiftieth of --images")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--shard-images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32, help="images of a worker in a step")
    parser.add_argument("--image-px", type=int, default=512)
    parser.add_argument("--stop", type=float, default=0.37, help="share of the last epoch after which a run is stopped")
    parser.add_argument("--resume-workers", type=int, help="that go on; default: three quarters of --workers")
    parser.add_argument("--sampling", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--sample", type=int, default=16, help="workers of which is told what they read")
    parser.add_argument("--rate", type=float, default=500, help="images a second of a worker, for what is a second")
    arguments = parser.parse_args()
    scale = Scale(
        workers=arguments.workers,
        images=arguments.images,
        val_images=arguments.val_images or max(arguments.workers, arguments.images // 50),
        epochs=arguments.epochs,
        shard_images=arguments.shard_images,
        batch=arguments.batch,
        image_px=arguments.image_px,
    )
    resume_workers = arguments.resume_workers or max(1, scale.workers * 3 // 4)
    start = time.perf_counter()
    parts, source = parts_of(scale), source_of(scale)
    print(
        f"{scale.workers:,} workers, {scale.images:,} training and {scale.val_images:,} validation images of "
        f"{scale.row_bytes / 2**20:g} MiB, {num_shards(scale):,} shards, batch {scale.batch} "
        f"({time.perf_counter() - start:.1f} s)",
        flush=True,
    )
    for name in arguments.sampling:
        schedule, reads, heads = simulate(
            name, scale, parts, source, stop=arguments.stop, resume_workers=resume_workers, sample=arguments.sample
        )
        show_requests(scale, reads, heads, schedule.steps, arguments.rate)
        show_memory(scale, schedule, source)
    print(f"all as it should be, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
