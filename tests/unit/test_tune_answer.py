"""What a study found as one value: values by trial, the winner, the cost and the table."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_study import SPACE, lines

from hpa_ray.tune.answer import cost, grace_values, study_table, winner
from hpa_ray.tune.study import Trial


def test_values_are_of_the_epochs_that_every_trial_was_given() -> None:
    trials = [
        Trial(0, {}, 0, status="done", lines=lines(0.1, 0.2, 0.9)),
        Trial(1, {}, 0, status="stopped", lines=lines(0.4, 0.3)),
        Trial(2, {}, 0, status="failed", lines=lines(0.8, 0.8)),
        Trial(3, {}, 0, lines=lines(0.7)),
        Trial(4, {}, 0, status="done", lines=lines(None, None, 0.5)),
        Trial(5, {}, 7, final_of=1, status="done", lines=lines(0.6, 0.6)),
    ]
    assert grace_values(trials, "macro_f1_rare_tuned", larger=True, grace=2) == {0: 0.2, 1: 0.4}
    assert grace_values(trials, "macro_f1_rare_tuned", larger=False, grace=2) == {0: 0.1, 1: 0.3}


def test_the_winner_is_chosen_by_validation_over_all_its_seeds() -> None:
    trials = [
        Trial(0, {}, 0, status="done", lines=lines(0.2)),
        Trial(1, {}, 0, status="done", lines=lines(0.9)),
        Trial(2, {}, 0, status="failed", lines=lines(1.0)),
    ]
    assert winner(trials, "macro_f1_rare_tuned", larger=True) == 1
    assert winner(trials, "macro_f1_rare_tuned", larger=False) == 0
    assert winner(trials[2:], "macro_f1_rare_tuned", larger=True) is None
    repeated = [  # trial 3 has the best single seed and the best test scores, trial 4 the best mean
        Trial(10, {}, 1, 3, "done", lines=lines(0.9), test={"macro_f1_rare_tuned": 1.0}),
        Trial(11, {}, 2, 3, "done", lines=lines(0.1), test={"macro_f1_rare_tuned": 1.0}),
        Trial(12, {}, 1, 4, "done", lines=lines(0.6), test={"macro_f1_rare_tuned": 0.0}),
        Trial(13, {}, 2, 4, "done", lines=lines(0.6), test={"macro_f1_rare_tuned": 0.0}),
    ]
    assert winner([*trials, *repeated], "macro_f1_rare_tuned", larger=True) == 4


def test_cost_counts_all_trials_and_what_stopping_spared() -> None:
    trials = [
        Trial(0, {}, 0, status="done", seconds=3600, lines=lines(*[0.1] * 10)),
        Trial(1, {}, 0, status="stopped", seconds=1800, lines=lines(0.1, 0.1)),
        Trial(2, {}, 1, final_of=0, status="done", seconds=1800, lines=lines(*[0.1] * 10)),
    ]
    found = cost(trials, unit="GPU", units_per_trial=2)
    assert (found.hours, found.unit, found.epochs, found.saved) == (4.0, "GPU", 22, pytest.approx(0.4))


def test_the_table_has_a_row_per_trial_and_a_column_per_key(tmp_path: Path) -> None:
    trials = [
        Trial(0, {}, 0, status="done", seconds=5, lines=({"epoch": 1, "map": 0.5, "val_loss": 0.3},)),
        Trial(
            1,
            {"loss.name": "focal", "augment.rare_only": True},
            0,
            status="stopped",
            lines=({"epoch": 1, "map": 0.4, "val_loss": 0.2}, {"epoch": 2, "map": 0.9, "val_loss": 0.4}),
        ),
        Trial(2, {}, 3, final_of=1, status="failed", reason="no memory"),
    ]
    pq.write_table(study_table(trials, SPACE, "val_loss", False), tmp_path / "study.parquet")
    table = pq.read_table(tmp_path / "study.parquet")
    rows = table.to_pylist()
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert {d.key for d in SPACE} <= set(table.column_names)
    assert (rows[1]["best"], rows[1]["best_epoch"], rows[1]["map"], rows[1]["epochs"]) == (0.2, 1, 0.4, 2)
    assert rows[1]["loss.name"] == "focal"
    assert rows[1]["optim.lr"] is None
    assert rows[1]["overrides"] == '{"loss.name": "focal", "augment.rare_only": true}'
    assert rows[2]["final_of"] == 1
    assert rows[2]["reason"] == "no memory"
    assert rows[2]["best"] is None
    assert study_table([], SPACE, "val_loss", False).schema == study_table(trials, SPACE, "val_loss", False).schema
