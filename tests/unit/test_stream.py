"""The order of samples is a value: what every epoch, step and worker gets follows from a few numbers."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpa_ray.errors import InputError
from hpa_ray.schema import Images, Reject
from hpa_ray.stream import (
    EpochOrder,
    Item,
    Place,
    Sampling,
    Schedule,
    Steps,
    Sweep,
    contiguous_share,
    local_feed,
    sample_seeds,
)
from hpa_ray.stream.feed import from_block, read_item, to_block

counts = st.integers(1, 700)


class Numbers:
    """A source whose images carry their row number in every pixel; rows divisible by 7 can be made unreadable."""

    image_size, channels = 2, ("red", "green")

    def __init__(self, reject: bool = False) -> None:
        self.reject = reject

    def read(self, rows: np.ndarray) -> Images:
        bad = rows % 7 == 0 if self.reject else np.zeros(len(rows), bool)
        kept = rows[~bad]
        pixels = np.broadcast_to((kept % 256).astype(np.uint8)[:, None, None, None], (len(kept), 2, 2, 2))
        return Images(kept, pixels, [Reject(int(row), f"id{row}", "file", "bad") for row in rows[bad]])


@given(
    num_rows=counts, seed=st.integers(0, 3), epoch=st.integers(0, 3), chunk=st.integers(1, 70), window=st.integers(1, 9)
)
def test_an_epoch_is_a_permutation(num_rows: int, seed: int, epoch: int, chunk: int, window: int) -> None:
    order = EpochOrder(num_rows, seed, chunk_rows=chunk, window_chunks=window)
    assert sorted(order.rows(epoch, 0, num_rows)) == list(range(num_rows))


@given(num_rows=counts, cut=st.floats(0, 1), chunk=st.integers(1, 70), window=st.integers(1, 9))
def test_a_slice_of_an_epoch_does_not_depend_on_how_it_is_asked_for(
    num_rows: int, cut: float, chunk: int, window: int
) -> None:
    order = EpochOrder(num_rows, 1, chunk_rows=chunk, window_chunks=window)
    middle = int(cut * num_rows)
    parts = [order.rows(2, 0, middle), order.rows(2, middle, num_rows)]
    assert np.array_equal(np.concatenate(parts), order.rows(2, 0, num_rows))


def test_epochs_and_seeds_give_different_orders() -> None:
    orders = {tuple(EpochOrder(500, seed).rows(epoch, 0, 500)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_mixes_far_beyond_a_batch_yet_reads_few_chunks_at_a_time() -> None:
    order = EpochOrder(64 * 256, 0, chunk_rows=64, window_chunks=16)
    batch = order.rows(0, 0, 32)
    assert len(set(batch // 64)) > 8  # from many chunks
    window = order.rows(0, 0, 64 * 16)
    assert len(set(window // 64)) == 16  # but each window only from its own


@given(num_rows=counts, batch_size=st.integers(1, 90), world_size=st.integers(1, 9))
def test_every_worker_takes_the_same_steps_and_every_sample_is_used_once(
    num_rows: int, batch_size: int, world_size: int
) -> None:
    if num_rows < world_size:
        with pytest.raises(InputError, match="can not be shared"):
            Steps(num_rows, batch_size, world_size)
        return
    steps = Steps(num_rows, batch_size, world_size)
    seen: list[int] = []
    sizes = []
    for step in range(steps.per_epoch):
        start, stop = steps.step(step)
        shares = [steps.share(step, rank) for rank in range(world_size)]
        assert [shares[0][0], shares[-1][1]] == [start, stop]
        assert all(0 <= end - begin <= batch_size for begin, end in shares)
        sizes += [stop - start]
        seen += [position for share in shares for position in range(*share)]
    assert seen == list(range(num_rows))
    assert max(sizes) - min(sizes) <= 1
    assert steps.per_epoch == -(-num_rows // (batch_size * world_size))


@given(num_rows=counts, batch_size=st.integers(1, 90), size=st.integers(1, 12))
def test_groups_of_steps_cover_them_and_are_about_equal(num_rows: int, batch_size: int, size: int) -> None:
    steps = Steps(num_rows, batch_size, 1)
    groups = [steps.group(step, size) for step in range(steps.per_epoch)]
    for step, (number, first, last) in enumerate(groups):
        assert first <= step <= last
        assert groups[first] == groups[last] == (number, first, last)
    lengths = {last - first + 1 for _, first, last in groups}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert groups[0][0] == 0
    assert groups[-1][0] + 1 == steps.num_groups(size)


@given(num_rows=st.integers(0, 300), world_size=st.integers(1, 40))
def test_validation_shares_cover_every_row_once(num_rows: int, world_size: int) -> None:
    shares = [contiguous_share(num_rows, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [row for share in shares for row in range(*share)] == list(range(num_rows))
    lengths = [stop - start for start, stop in shares]
    assert max(lengths) - min(lengths) <= 1


def schedules(world_size: int, *, batch_size: int, first_epoch: int = 0) -> list[Schedule]:
    train, val = np.arange(0, 300, 2), np.arange(1, 60, 2)
    order, steps = EpochOrder(len(train), 5, chunk_rows=16), Steps(len(train), batch_size, world_size)
    return [
        Schedule(train, val, Sampling(len(train), 5, None), order, steps, rank, Place(first_epoch, steps), 3)
        for rank in range(world_size)
    ]


@settings(deadline=None, max_examples=12)
@given(world_size=st.integers(1, 5), batch_size=st.integers(2, 40))
def test_a_run_of_many_workers_reads_what_one_worker_reads(world_size: int, batch_size: int) -> None:
    """At the same global batch, step by step: the same samples with the same draws."""
    alone = schedules(1, batch_size=batch_size * world_size)[0]
    together = schedules(world_size, batch_size=batch_size)
    wanted = [alone[k] for k in range(len(alone))]
    for epoch in range(3):
        for step in range(alone.steps.per_epoch):
            one = next(item for item in wanted if (item.kind, item.epoch, item.step) == ("train", epoch, step))
            shares = [schedule[epoch * schedule.items_per_epoch + step] for schedule in together]
            assert np.array_equal(np.concatenate([share.rows_B for share in shares]), one.rows_B)
            assert np.array_equal(np.concatenate([share.seeds_B for share in shares]), one.seeds_B)
            assert {share.step_size for share in shares} == {one.step_size}
        rows = Counter(
            int(row)
            for schedule in together
            for k in range(len(schedule))
            for row in schedule[k].rows_B
            if (schedule[k].kind, schedule[k].epoch) == ("val", epoch)
        )
        assert rows == Counter(range(1, 60, 2))


def test_a_resumed_schedule_is_the_rest_of_the_straight_one() -> None:
    straight, resumed = schedules(2, batch_size=8)[1], schedules(2, batch_size=8, first_epoch=2)[1]
    rest = [straight[k] for k in range(2 * straight.items_per_epoch, len(straight))]
    assert len(rest) == len(resumed)
    for expected, item in zip(rest, (resumed[k] for k in range(len(resumed))), strict=True):
        assert (expected.kind, expected.epoch, expected.step) == (item.kind, item.epoch, item.step)
        assert np.array_equal(expected.rows_B, item.rows_B)


@given(num_rows=st.integers(20, 700), batch_size=st.integers(2, 40), data=st.data())
def test_an_epoch_that_changes_hands_has_every_sample_once(num_rows: int, batch_size: int, data: st.DataObject) -> None:
    """Each group of workers takes some steps and stops; the next, of another size, goes on with what is left."""
    seen: list[int] = []
    place = Place(0, Steps(num_rows, batch_size, 1))
    while place.samples_seen < num_rows:
        world_size = data.draw(st.integers(1, 6))
        steps = Steps(num_rows, batch_size, world_size, first=place.samples_seen)
        place = Place(0, steps, data.draw(st.integers(1, steps.per_epoch)))
        for step in range(place.step):
            shares = [steps.share(step, rank) for rank in range(world_size)]
            assert all(0 <= stop - start <= batch_size for start, stop in shares)
            seen += [position for share in shares for position in range(*share)]
        assert place.samples_seen == len(seen)
    assert seen == list(range(num_rows))


@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 4), (1, 10), (2, 9)])
def test_a_schedule_resumed_within_an_epoch_is_the_rest_of_the_straight_one(epoch: int, step: int) -> None:
    straight = schedules(2, batch_size=8)[1]
    resumed = replace(straight, start=Place(epoch, straight.steps, step))
    rest = [straight[k] for k in range(epoch * straight.items_per_epoch + step, len(straight))]
    assert len(rest) == len(resumed)
    for expected, item in zip(rest, (resumed[k] for k in range(len(resumed))), strict=True):
        assert (expected.kind, expected.epoch, expected.step) == (item.kind, item.epoch, item.step)
        assert np.array_equal(expected.rows_B, item.rows_B)
        assert np.array_equal(expected.seeds_B, item.seeds_B)


def test_samples_keep_their_draws_when_the_epoch_is_cut_anew() -> None:
    one = schedules(1, batch_size=8)[0]
    draws = {
        int(row): int(seed)
        for k in range(one.steps.per_epoch)
        for row, seed in zip(one[k].rows_B, one[k].seeds_B, strict=True)
    }
    for schedule in schedules(2, batch_size=5):
        later = replace(schedule, start=Place(0, replace(schedule.steps, first=37)))
        for k in range(later.start.steps.per_epoch):
            assert all(draws[int(row)] == seed for row, seed in zip(later[k].rows_B, later[k].seeds_B, strict=True))


def test_sample_seeds_depend_on_the_place_alone_and_are_spread() -> None:
    whole = sample_seeds(7, 3, 0, 10_000)
    assert np.array_equal(whole[40:90], sample_seeds(7, 3, 40, 90))
    assert len(set(whole)) == 10_000
    assert whole.min() >= 0
    bits = (whole[:, None] >> np.arange(63)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.03  # 6 sigma of a fair coin
    assert not np.intersect1d(whole, sample_seeds(7, 4, 0, 10_000)).size


@pytest.mark.parametrize("reject", [False, True])
def test_batches_survive_the_way_through_an_arrow_block(reject: bool) -> None:
    sweep = Sweep(np.arange(0, 50), 16)
    batches = [read_item(Numbers(reject), sweep[k]) for k in range(len(sweep))]
    block = to_block(batches)
    for table in (block, block.slice(0)):
        for before, after in zip(batches, from_block(table), strict=True):
            assert (before.kind, before.epoch, before.step, before.step_size, before.rejects) == (
                after.kind,
                after.epoch,
                after.step,
                after.step_size,
                after.rejects,
            )
            for old, new in zip(before[3:5] + before[6:7], after[3:5] + after[6:7], strict=True):
                assert np.array_equal(old, new)
    assert [batch.step for batch in from_block(block.slice(2))] == [2, 3]


def test_an_image_that_stands_in_a_batch_several_times_is_read_once() -> None:
    asked: list[list[int]] = []

    class Watched(Numbers):
        def read(self, rows: np.ndarray) -> Images:
            asked.append(rows.tolist())
            return super().read(rows)

    rows, seeds = np.array([9, 7, 3, 9, 14, 3, 9]), np.arange(7)
    item = Item("train", 0, 0, rows, seeds, 7)
    batch = read_item(Watched(reject=True), item)
    assert [sorted(numbers) for numbers in asked] == [[3, 7, 9, 14]]
    assert batch.rows_B.tolist() == [9, 3, 9, 3, 9]
    assert batch.seeds_B.tolist() == [0, 2, 3, 5, 6]
    assert batch.pixels_BCSS[:, 0, 0, 0].tolist() == [9, 3, 9, 3, 9]
    assert sorted(reject.row for reject in batch.rejects) == [7, 14]


def test_seeds_stay_with_their_rows_when_an_image_is_left_out() -> None:
    item = schedules(1, batch_size=32)[0][0]
    batch = read_item(Numbers(reject=True), item)
    seeds = dict(zip(item.rows_B.tolist(), item.seeds_B.tolist(), strict=True))
    assert batch.rejects
    assert [seeds[row] for row in batch.rows_B.tolist()] == batch.seeds_B.tolist()


@pytest.mark.parametrize("prefetch", [1, 3, 100])
def test_the_local_feed_keeps_the_order(prefetch: int) -> None:
    sweep = Sweep(np.arange(200), 8)
    batches = list(local_feed(Numbers(), sweep, prefetch=prefetch))
    assert np.array_equal(np.concatenate([batch.rows_B for batch in batches]), np.arange(200))


def test_the_local_feed_passes_a_mistake_on() -> None:
    class Broken(Numbers):
        def read(self, rows: np.ndarray) -> Images:
            if rows[0] >= 16:
                raise InputError("bad file")
            return super().read(rows)

    feed = local_feed(Broken(), Sweep(np.arange(80), 8), prefetch=2)
    assert next(feed).step == 0
    assert next(feed).step == 1
    with pytest.raises(InputError, match="bad file"):
        next(feed)


def test_files_and_shards_give_the_model_the_same_pixels(atlas: Path, tmp_path: Path) -> None:
    """Whatever the channels: training straight from PNGs and from shards differ in nothing but speed."""
    from hpa_ray.config import load_config
    from hpa_ray.ingest import prepare
    from hpa_ray.manifest import open_images
    from hpa_ray.stream import open_data

    images, labels, shards = str(atlas / "train"), str(atlas / "train.csv"), str(tmp_path / "shards")
    stains = ("red", "green", "blue", "yellow")
    manifest = open_images(load_config([f"data.images={images}", f"data.labels={labels}"]).data)
    prepare(manifest, output=shards, channels=stains, sizes={32: shards}, num_workers=0)
    for channels in ("red,green,blue,yellow", "green", "blue,red"):
        common = ["data.image_size=32", f"data.channels={channels}"]
        from_files = open_data(load_config([f"data.images={images}", f"data.labels={labels}", *common]))
        from_shards = open_data(load_config([f"data.shards={shards}", *common]))
        assert sorted(from_files.image_ids.to_pylist()) == sorted(from_shards.image_ids.to_pylist())
        for part, rows in from_files.parts.items():
            assert set(from_files.ids(rows)) == set(from_shards.ids(from_shards.parts[part])), part
        row_of = {name: row for row, name in enumerate(from_shards.image_ids.to_pylist())}
        rows = np.arange(len(from_files.image_ids))
        same = np.array([row_of[name] for name in from_files.ids(rows)])
        assert np.array_equal(from_files.source.read(rows).pixels_BCSS, from_shards.source.read(same).pixels_BCSS)
        assert np.array_equal(from_files.targets_NK, from_shards.targets_NK[same])
        assert np.allclose(from_files.mean, from_shards.mean, rtol=0.1)
