"""Checkpoints within an epoch: wherever a run is stopped, it ends as if it had not been, and no sample is lost."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import NO_BATCH_NORM, PLAIN, RICH, ProcessHost, run, without_times

from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import checkpoint_interval, load_config
from hpa_ray.errors import InputError, Stopped
from hpa_ray.schema import Source
from hpa_ray.stream import Batch, Schedule
from hpa_ray.train import saving
from hpa_ray.train.host import LocalHost, Notice

pytestmark = pytest.mark.usefixtures("one_thread")
EVERY_STEP = "train.checkpoint_every=1 step"
CPU = torch.device("cpu")


class Counts(LocalHost):
    """Notes which samples were read, and dies before a training batch."""

    def __init__(self, *, dies_at: int | None = None) -> None:
        super().__init__(False, 2, lambda event: None)
        self.dies_at, self.taken = dies_at, []  # type: ignore[var-annotated]

    def feed(self, source: Source, schedule: Schedule) -> Iterator[Batch]:
        number = 0
        for batch in super().feed(source, schedule):
            if batch.kind == "train":
                if number == self.dies_at:
                    raise KeyboardInterrupt
                number += 1
            self.taken += [(batch.kind, batch.epoch, batch.step, tuple(batch.rows_B.tolist()))]
            yield batch


def killed(shards: str, folder: Path, *words: str, at: int) -> Counts:
    host = Counts(dies_at=at)
    with pytest.raises(KeyboardInterrupt):
        run(shards, folder, *words, host=host)
    return host


def test_stopped_anywhere_a_run_with_everything_on_ends_the_same(shards: str, tmp_path: Path) -> None:
    """Averages, sampling, dropout, mixed images, freezing, accumulation, sizes; killed every few batches."""
    words = [*RICH, "train.epochs=2", "train.batch_size=12", "train.checkpoint_every=2 steps"]
    straight_host = Counts()
    straight = run(shards, tmp_path / "straight", *words, host=straight_host)
    taken: list[Any] = []
    num_stops, lines = 0, None
    while lines is None:
        host = Counts(dies_at=4)
        try:
            lines = run(shards, tmp_path / "stopped", *words, host=host)
        except KeyboardInterrupt:
            num_stops += 1
        taken += host.taken
    assert num_stops > 1
    assert without_times(lines) == without_times(straight)
    assert set(taken) == set(straight_host.taken)


def test_what_is_stored_is_not_seen_again(shards: str, tmp_path: Path) -> None:
    words = [*PLAIN, "model.name=mlp6", "train.epochs=2", "train.batch_size=5"]
    first = killed(shards, tmp_path, *words, EVERY_STEP, at=6)
    assert RunFolder(str(tmp_path)).checkpoints()[-1] == "epoch-0000-0000000030.pt"
    second = Counts()
    run(shards, tmp_path, *words, EVERY_STEP, host=second)
    learned = [*first.taken[:6], *second.taken]
    for epoch in range(2):
        rows = Counter(row for kind, of, _, rows in learned if (kind, of) == ("train", epoch) for row in rows)
        assert set(rows.values()) == {1}
        assert len(rows) == 40


def one_of_two(rank: int, meeting: str, shards: str, folder: str, words: list[str], stop: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)

    class Dies(ProcessHost):
        def feed(self, source: Source, schedule: Schedule) -> Iterator[Batch]:
            for number, batch in enumerate(super().feed(source, schedule)):
                if number == stop:
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        run(shards, Path(folder), *words, host=Dies(CPU))
    torch.distributed.destroy_process_group()


def test_a_run_shrinks_and_grows_within_an_epoch_without_loss(shards: str, tmp_path: Path) -> None:
    """One process, then two, then one: at batches of 10, 5 each, and 10 the numbers are those of one alone."""
    folder, words = tmp_path / "run", [*NO_BATCH_NORM, "train.epochs=2", EVERY_STEP]
    straight = run(shards, tmp_path / "straight", *words, "train.batch_size=10")
    killed(shards, folder, *words, "train.batch_size=10", at=1)
    halves = [*words, "train.batch_size=5"]
    torch.multiprocessing.spawn(one_of_two, (f"{tmp_path}/meeting", shards, str(folder), halves, 2), nprocs=2)
    assert RunFolder(str(folder)).checkpoints()[-1] == "epoch-0000-0000000030.pt"
    host = Counts()
    lines = run(shards, folder, *words, "train.batch_size=10", host=host)
    assert [taken[0] for taken in host.taken[:2]] == ["train", "val"]
    for ours, theirs in zip(straight, lines, strict=True):
        for key in ("train_loss", "val_loss", "lr", "map", "train_macro_f1"):
            assert theirs[key] == pytest.approx(ours[key], rel=1e-5), key


def test_exact_runs_go_on_only_where_they_were(shards: str, tmp_path: Path) -> None:
    words = [*PLAIN, "model.name=mlp6", "train.epochs=2", "train.batch_size=10", "run.exact=true", EVERY_STEP]
    killed(shards, tmp_path, *words, at=2)
    threads = torch.get_num_threads()
    host = LocalHost(False, 2, lambda event: None)
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(InputError, match=r"run.exact=true: the run was on 1 x \d+ CPU thread"):
            run(shards, tmp_path, *words, host=host)
    finally:
        torch.set_num_threads(threads)
    assert len(run(shards, tmp_path, *words)) == 2


def test_other_data_is_not_gone_on_with(shards: str, tmp_path: Path) -> None:
    words = ["model.name=mlp6", "train.epochs=2", "train.batch_size=10", EVERY_STEP]
    killed(shards, tmp_path, *words, at=2)
    with pytest.raises(InputError, match="the images, their labels or their parts are not those the run began with"):
        run(shards, tmp_path, *words, "split.seed=5")


def test_a_checkpoint_that_can_not_be_written_ends_the_run(shards: str, tmp_path: Path) -> None:
    words = ["model.name=mlp6", "train.epochs=3", "train.batch_size=5", EVERY_STEP]
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(OSError):
        run(shards, tmp_path, *words)


class Told(LocalHost):
    """Is asked to stop, or told that another machine leaves, from the start."""

    def __init__(self, notice: Notice) -> None:
        super().__init__(False, 2, lambda event: None)
        self.told: Notice = notice

    def notice(self) -> Notice:
        return self.told


def test_a_notice_is_seen_where_every_step_is_stored_anyway(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "LOOK_EVERY_S", 0.0)
    with pytest.raises(Stopped, match="in epoch 1, after 32 of its images"):
        run(shards, tmp_path, "model.name=mlp6", "train.epochs=1", "train.batch_size=4", EVERY_STEP, host=Told("stop"))


@pytest.mark.parametrize("told", ["stop", "leaving"])
def test_a_notice_is_answered_by_a_checkpoint(
    told: Notice, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "LOOK_EVERY_S", 0.0)
    saved: list[str] = []
    save = RunFolder.save_checkpoint
    monkeypatch.setattr(
        RunFolder, "save_checkpoint", lambda self, *a, **k: (save(self, *a, **k), saved.append(self.checkpoints()[-1]))
    )
    words = ["model.name=mlp6", "train.epochs=2", "train.batch_size=4"]
    straight = run(shards, tmp_path / "straight", *words)
    saved.clear()
    if told == "stop":
        with pytest.raises(Stopped, match="in epoch 1, after 32 of its images"):
            run(shards, tmp_path, *words, host=Told(told))
        assert saved == ["epoch-0000-0000000032.pt"]
    host = Told("" if told == "stop" else told)
    assert without_times(run(shards, tmp_path, *words, host=host)) == without_times(straight)
    assert saved[0] == "epoch-0000-0000000032.pt"


@given(st.integers(1, 10**6), st.sampled_from(["steps", "min", "s", "step"]), st.sampled_from(["", " "]))
def test_intervals(number: int, unit: str, space: str) -> None:
    steps, seconds = checkpoint_interval(f"{number}{space}{unit}")
    assert (steps, seconds) == {"min": (0, 60.0 * number), "s": (0, float(number))}.get(unit, (number, 0.0))


@pytest.mark.parametrize("words", ["5", "0 steps", "-1 min", "1.5 min", "10 h", "ten min", "5 steps and"])
def test_an_interval_needs_its_unit(words: str) -> None:
    with pytest.raises(InputError, match=r"train.checkpoint_every = .* - give such as `500 steps`"):
        load_config([f"train.checkpoint_every={words}"])


def test_numbers_of_workers() -> None:
    train = load_config(["train.num_workers=2..8"]).train
    assert (train.min_workers, train.num_workers) == (2, 8)
    with pytest.raises(InputError, match=r"train.num_workers"):
        load_config(["train.num_workers=2..x"])


HANGS = """
import sys, time
from small_runs import run
from hpa_ray.train.host import LocalHost

class Hangs(LocalHost):
    def feed(self, source, schedule):
        for number, batch in enumerate(super().feed(source, schedule)):
            if number == 2:
                time.sleep(600)  # where it hangs
            yield batch

shards, folder = sys.argv[1:]
host = Hangs(False, 2, lambda event: print(event["text"] if "text" in event else "", flush=True))
run(shards, folder, "model.name=mlp6", "train.hang_timeout_s=2", host=host)
"""


def test_a_hang_ends_with_the_stacks(shards: str, tmp_path: Path) -> None:
    began = time.monotonic()
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", HANGS, shards, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent)))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 70, done.stderr
    assert "rank 0 did nothing for 2 s (train.hang_timeout_s): its stacks are in" in done.stdout
    text = (tmp_path / "hang" / "rank-0.txt").read_text()
    assert "MainThread" in text
    assert "time.sleep(600)  # where it hangs" in text or "in feed" in text
    assert time.monotonic() - began < 100


def test_a_state_is_copied() -> None:
    layer = torch.nn.Linear(2, 2)
    state = {"a": [layer.weight, (1, "x")], "b": None}
    copy = saving.copied(state)
    with torch.no_grad():
        layer.weight += 1
    assert torch.equal(copy["a"][0] + 1, layer.weight)
    assert not copy["a"][0].requires_grad
    assert copy["a"][1] == (1, "x")


def test_what_was_taken_goes_to_the_ranks_that_had_it_or_to_the_first() -> None:
    from hpa_ray.stream import Place, Steps
    from hpa_ray.train.record import Seen

    parts = [saving.Taken(float(k), k + 1, Seen(np.arange(k), np.full((k, 28), k, np.float32))) for k in range(3)]
    state = saving.place_state(Place(1, Steps(90, 10, 3), 2), parts, {})
    for rank, part in enumerate(parts):
        again = saving.taken_of(state, rank, 3)
        assert again[:2] == part[:2]
        assert np.array_equal(again.seen.logits_NK, part.seen.logits_NK)
    alone = [saving.taken_of(state, rank, 2) for rank in range(2)]
    assert alone[0][:2] == (3.0, 6)
    assert len(alone[0].seen.rows_N) == 3
    assert alone[1][:2] == (0.0, 0)
