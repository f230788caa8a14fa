"""benchmarks/stream_scale.py in small: more workers than a test of the stream has, with repeats, a stop and a handover.

And that its checks see what they are there for.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from stream_scale import (
    NAMES,
    Name,
    Scale,
    check_times,
    check_validation,
    copies_of,
    emitted,
    parts_of,
    reads_of,
    schedules_of,
    simulate,
    source_of,
)

from hpa_ray.stream import Sampling

SMALL = Scale(workers=50, images=20_011, val_images=403, epochs=2, shard_images=256, batch=8, image_px=16)
"""Nothing divides: 51 steps of 392 or 393 images."""


@pytest.mark.parametrize("name", NAMES)
def test_epochs_of_many_workers_hold_what_they_should(name: Name) -> None:
    parts, source = parts_of(SMALL), source_of(SMALL)
    schedule, reads, _ = simulate(name, SMALL, parts, source, stop=0.4, resume_workers=37, sample=3)
    assert schedule.steps.per_epoch == -(-schedule.order.num_rows // (50 * 8))
    assert reads.gets <= reads.images <= 8
    assert reads.shards <= reads.batches <= reads.gets


def test_a_batch_of_whole_shards_is_one_request_if_neighbours_were_joined() -> None:
    alone = replace(SMALL, workers=1, images=256, val_images=0, batch=256)
    parts = parts_of(alone)
    schedules = schedules_of(alone, parts, Sampling(alone.images, 0, None))
    reads = reads_of(schedules, source_of(alone), alone.row_bytes)
    assert (reads.images, reads.gets, reads.batches, reads.shards) == (256, 256, 4, 1)
    assert reads.joined == 4  # a batch of 64 has a header of its own


def test_a_lost_image_and_a_worker_that_is_missing_are_seen() -> None:
    parts, copies = parts_of(SMALL), copies_of("repeat_factor", SMALL)
    for sampling in (Sampling(SMALL.images, 0, None), Sampling(SMALL.images, 0, copies)):
        schedules = schedules_of(SMALL, parts, sampling)
        times = emitted(schedules, 0, SMALL.images + SMALL.val_images).times_N
        check_times(times, sampling)
        moved = times.copy()
        moved[0] += 2
        moved[np.argmax(moved[1:] > 0) + 1] -= 1
        moved[np.argmax(moved[2:] > 0) + 2] -= 1  # as many images in all
        with pytest.raises(AssertionError):
            check_times(moved, sampling)
        with pytest.raises(AssertionError, match="are not the step"):
            emitted(schedules[:-1], 0, SMALL.images + SMALL.val_images)
        with pytest.raises(AssertionError, match="validation"):
            check_validation(schedules[1:])
