"""Settings that change during a run."""

from pathlib import Path

import pytest
from small_runs import PLAIN, run, without_times

from hpa_ray.config import load_config, stages_of
from hpa_ray.errors import InputError

WORDS = [*PLAIN, "model.name=mlp6", "train.epochs=4", "train.batch_size=10", "optim.lr=1e-3"]
CHANGES = "train.stages=1:optim.lr=5e-4,3:loss.name=asl,3:sampling.name=repeat_factor,3:sampling.threshold=0.2"


def test_each_stage_is_a_configuration() -> None:
    stages = stages_of(load_config([*WORDS, CHANGES]))
    assert [(stage.until, stage.config.optim.lr, stage.config.loss.name) for stage in stages] == [
        (1, 1e-3, "bce"),
        (3, 5e-4, "bce"),
        (4, 5e-4, "asl"),
    ]
    assert [stage.until for stage in stages_of(load_config(WORDS))] == [4]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("optim.lr=1", "write such as 4:loss.name=asl"),
        ("2:optim.lr", "write such as 4:loss.name=asl"),
        ("4:optim.lr=1", "the run has 4 epochs"),
        ("0:optim.lr=1", "the run has 4 epochs"),
        ("2:model.name=mlp6", "only loss, sampling, augment"),
        ("2:optim.lr_scaling=sqrt", "only loss, sampling, augment"),
        ("2:loss.name=nope", "after epoch 2: command line: loss.name = 'nope'"),
        ("2:loss.name=soft_f1,2:loss.label_smoothing=0.1", "after epoch 2: loss.label_smoothing does nothing"),
    ],
)
def test_mistakes_in_stages(word: str, reason: str) -> None:
    with pytest.raises(InputError, match=r"^train\.stages") as caught:
        stages_of(load_config([*WORDS, f"train.stages={word}"]))
    assert reason in str(caught.value)


def test_a_run_changes_and_stops_where_it_is_told(shards: str, tmp_path: Path) -> None:
    straight = run(shards, tmp_path / "straight", *WORDS, CHANGES)
    assert [line["lr"] for line in straight] == [1e-3, 5e-4, 5e-4, 5e-4]
    assert [line["num_samples"] for line in straight[:3]] == [40] * 3
    assert straight[3]["num_samples"] > 40
    for epoch in (1, 2, 2, 3):
        assert len(run(shards, tmp_path / "stopped", *WORDS, CHANGES, f"train.stop_epoch={epoch}")) == epoch
    assert without_times(run(shards, tmp_path / "stopped", *WORDS, CHANGES)) == without_times(straight)
    unchanged = run(shards, tmp_path / "unchanged", *WORDS)
    assert without_times(unchanged)[:1] == without_times(straight)[:1]
    assert [line["train_loss"] for line in unchanged[1:]] != [line["train_loss"] for line in straight[1:]]
