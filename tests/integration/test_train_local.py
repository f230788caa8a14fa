"""Training in one process, without Ray: what a run leaves behind, and that stopping it anywhere loses nothing."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

from hpa_ray.checkpoint.model_file import load_model, save_model
from hpa_ray.cli.main import main

RUN_FILES = {"config.yaml", "summary.json", "metrics.jsonl", "per_class.csv", "predictions_val.parquet"}
RUN_FILES |= {"thresholds.json", "model.safetensors", "environment.json", "run.log", "data.json", "report.html"}


@pytest.fixture(scope="module")
def words(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small run on shards, but for its name."""
    folder = tmp_path_factory.mktemp("local")
    data = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32"]
    assert main(["prepare", *data, f"prepare.output={folder}/shards", "prepare.num_workers=0"]) == 0
    small = ["model.name=resnet18", "train.epochs=4", "train.batch_size=8", "train.num_workers=0"]
    return [f"data.shards={folder}/shards", f"run.storage={folder}/runs", "split.parts=0.6/0.2/0.2", *small]


def folder_of(words: Sequence[str], name: str) -> Path:
    storage = next(word.split("=")[1] for word in words if word.startswith("run.storage="))
    return Path(storage) / name


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(words: list[str]) -> Path:
    """A run from start to end without a stop."""
    assert main(["train", *words, "run.name=straight"]) == 0
    return folder_of(words, "straight")


def test_the_run_folder_holds_all_that_was_promised(straight: Path) -> None:
    assert {path.name for path in straight.iterdir()} >= RUN_FILES
    summary = json.loads((straight / "summary.json").read_text())
    for name in ("macro_f1", "micro_f1", "precision_micro", "recall_micro", "exact_match", "proportional_accuracy"):
        assert 0 <= summary[name] <= 1
        assert 0 <= summary[f"{name}_tuned"] <= 1
    for name in ("map", "auroc", "macro_f1_present", "images_per_s", "data_wait_pct", "first_batch_s", "wall_s"):
        assert summary[name] is not None
    assert (summary["status"], summary["epochs"], summary["num_images"]) == ("done", 4, 12)
    resolved = yaml.safe_load((straight / "config.yaml").read_text())
    assert resolved["model"]["name"] == "resnet18"
    assert "test part" in (straight / "run.log").read_text()


def test_the_run_ends_with_its_page(straight: Path, words: list[str]) -> None:
    html = (straight / "report.html").read_text()
    summary = json.loads((straight / "summary.json").read_text())
    assert f"<dd>{summary['test_macro_f1_tuned']:.3f}</dd>" in html
    assert f"to look at: {straight}/report.html" in (straight / "run.log").read_text()
    facts = json.loads((straight / "data.json").read_text())["parts"]
    assert {part: fact["images"] for part, fact in facts.items()} == {"train": 36, "val": 12, "test": 12}
    truth = pq.read_table(straight / "predictions_test.parquet")["truth"].to_pylist()
    assert facts["test"]["classes"] == [sum(k in labels for labels in truth) for k in range(28)]


def test_a_page_that_can_not_be_made_does_not_cost_the_run(words: list[str]) -> None:
    folder = folder_of(words, "unpaged")
    once = [*words, "run.name=unpaged", "train.epochs=2", "train.stop_epoch=1"]
    assert main(["train", *once, "track.report=false"]) == 0
    assert not (folder / "report.html").exists()
    (folder / "report.html").mkdir()  # no file can take its place
    assert main(["train", *words, "run.name=unpaged", "train.epochs=2", "run.resume=true"]) == 0
    assert json.loads((folder / "summary.json").read_text())["status"] == "done"
    log = (folder / "run.log").read_text()
    assert "note: report.html could not be made (IsADirectoryError" in log
    assert "to look at" not in log


def test_the_loss_falls(straight: Path) -> None:
    values = losses(straight)
    assert len(values) == 4
    assert values[-1] < 0.8 * values[0]


def test_the_summary_says_what_scikit_learn_says_of_the_stored_predictions(
    straight: Path, atlas: Path, words: list[str]
) -> None:
    table = pq.read_table(straight / "predictions_test.parquet")
    rows = dict(line.split(",") for line in (atlas / "train.csv").read_text().splitlines()[1:])
    truth = np.zeros((table.num_rows, 28), int)
    for row, image_id in enumerate(table["image_id"].to_pylist()):
        truth[row, [int(k) for k in rows[image_id].split()]] = 1
    probabilities = np.array(table["probabilities"].to_pylist())
    thresholds = np.array(load_model(str(straight)).card.thresholds)
    summary = json.loads((straight / "summary_test.json").read_text())
    options = {"average": "macro", "zero_division": 0}
    assert summary["macro_f1"] == pytest.approx(f1_score(truth, probabilities >= 0.5, **options))
    assert summary["macro_f1_tuned"] == pytest.approx(f1_score(truth, probabilities >= thresholds, **options))
    present = truth.any(axis=0)
    expected = average_precision_score(truth[:, present], probabilities[:, present], average="macro")
    assert summary["map"] == pytest.approx(expected, abs=1e-6)
    floor = f1_score(truth, np.ones_like(truth), **options)
    assert summary["floor_macro_f1"] == pytest.approx(floor)


def test_evaluate_repeats_the_validation_of_the_run(straight: Path, tmp_path: Path) -> None:
    assert main(["evaluate", f"evaluate.run={straight}", "evaluate.part=val", f"evaluate.output={tmp_path}"]) == 0
    again = pq.read_table(tmp_path / "predictions_val.parquet")
    assert again.equals(pq.read_table(straight / "predictions_val.parquet"))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(words: list[str], straight: Path) -> None:
    assert main(["train", *words, "run.name=again"]) == 0
    assert losses(folder_of(words, "again")) == losses(straight)
    assert main(["train", *words, "run.name=other", "run.seed=1", "train.epochs=1"]) == 0
    assert losses(folder_of(words, "other"))[0] != losses(straight)[0]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(words: list[str], straight: Path) -> None:
    folder = folder_of(words, "killed")
    process = start(words, "killed")
    wait_for(lambda: (folder / "checkpoints" / "epoch-0002.pt").exists(), process)
    process.kill()  # -9
    process.communicate()
    assert main(["train", *words, "run.name=killed", "run.resume=true"]) == 0
    assert losses(folder) == losses(straight)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["epoch-0003.pt", "epoch-0004.pt"]


def test_control_c_leaves_a_summary_that_is_valid_and_a_run_that_goes_on(words: list[str]) -> None:
    folder = folder_of(words, "interrupted")
    longer = [*words, "train.epochs=30"]
    process = start(longer, "interrupted")
    wait_for(lambda: (folder / "checkpoints" / "epoch-0002.pt").exists(), process)
    process.send_signal(signal.SIGINT)
    codes = [1]
    try:
        _, errors = process.communicate(timeout=8)
    except subprocess.TimeoutExpired:  # it came inside a call into C that swallows it: a user would press again
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        codes.append(-signal.SIGINT)  # it was not swallowed, and the second one met Python while it was ending
    assert process.returncode in codes
    assert "Traceback" not in errors
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert 2 <= summary["epochs"] < 30
    before = losses(folder)
    assert main(["train", *longer, "run.name=interrupted", "run.resume=true"]) == 0
    assert losses(folder)[: len(before)] == before
    assert len(losses(folder)) == 30
    assert json.loads((folder / "summary.json").read_text())["status"] == "done"


def test_a_run_asked_to_end_stores_where_it_is(words: list[str]) -> None:
    """SIGTERM, as from Slurm, Kubernetes or a spot machine; and kill -9 within an epoch of what went on from there."""
    folder, longer = folder_of(words, "asked"), [*words, "train.epochs=10", "train.checkpoint_every=3 steps"]
    process = start(longer, "asked")
    wait_for(lambda: (folder / "checkpoints" / "epoch-0002.pt").exists(), process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (143, "")
    assert "stopped on request in epoch" in (folder / "run.log").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    before = losses(folder)
    process = start([*longer, "run.resume=true"], "asked")
    within = f"epoch-{len(before) + 2:04d}-"
    wait_for(lambda: any(p.name.startswith(within) for p in (folder / "checkpoints").iterdir()), process)
    process.kill()
    process.communicate()
    assert main(["train", *longer, "run.name=asked", "run.resume=true"]) == 0
    assert losses(folder)[: len(before)] == before
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {(line["num_samples"], line["num_distinct"]) for line in lines} == {(36, 36)}
    assert len(lines) == 10


def test_resuming_a_finished_run_changes_nothing(words: list[str], straight: Path) -> None:
    before = (straight / "metrics.jsonl").read_bytes(), (straight / "model.safetensors").read_bytes()
    assert main(["train", *words, "run.name=straight", "run.resume=true"]) == 0
    assert ((straight / "metrics.jsonl").read_bytes(), (straight / "model.safetensors").read_bytes()) == before


def test_training_straight_from_files_scores_like_training_from_shards(
    words: list[str], straight: Path, atlas: Path
) -> None:
    files = [f"data.images={atlas}/train", f"data.labels={atlas}/train.csv", "data.image_size=32"]
    others = [word for word in words if not word.startswith("data.")]
    assert main(["train", *files, *others, "run.name=files"]) == 0
    assert losses(folder_of(words, "files")) == pytest.approx(losses(straight), rel=0.15)  # another order and mean


def start(words: Sequence[str], name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "hpa_ray.cli", "train", *words, f"run.name={name}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ)


def wait_for(condition, process: "subprocess.Popen[str]", timeout_s: float = 120) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"it ended too early: {process.stderr.read() if process.stderr else ''}"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def test_predict_matches_the_sources_of_shards_as_evaluate_does(atlas: Path, tmp_path: Path) -> None:
    """A second source of darker images, under other Ids."""
    second = tmp_path / "second"
    second.mkdir()
    names = [line.split(",") for line in (atlas / "train.csv").read_text().splitlines()[1:13]]
    (second / "labels.csv").write_text("Id,Target\n" + "".join(f"x{name},{labels}\n" for name, labels in names))
    for name, _ in names:
        for stain in ("red", "green", "blue", "yellow"):
            pixels = np.asarray(Image.open(atlas / "train" / f"{name}_{stain}.png"))
            Image.fromarray(pixels // 2).save(second / f"x{name}_{stain}.png")
    data = [
        f"data.images={atlas}/train",
        f"data.labels={atlas}/train.csv",
        f"data.extra={second}",
        "data.image_size=32",
    ]
    assert main(["prepare", *data, f"prepare.output={tmp_path}/shards", "prepare.num_workers=0"]) == 0
    shards, run = f"data.shards={tmp_path}/shards", tmp_path / "runs" / "a"
    words = [f"run.storage={run.parent}", "run.name=a", "model.name=mlp6", "train.epochs=1", "train.num_workers=0"]
    assert main(["train", shards, *words, "split.parts=0.8/0.2"]) == 0
    assert main(["evaluate", f"evaluate.run={run}", "evaluate.part=all", f"evaluate.output={tmp_path}/all"]) == 0
    assert main(["predict", f"predict.run={run}", shards, f"predict.output={tmp_path}/out"]) == 0
    tables = [pq.read_table(tmp_path / name) for name in ("all/predictions_all.parquet", "out/predictions.parquet")]
    ours, theirs = (
        dict(zip(*(table[key].to_pylist() for key in table.column_names[:2]), strict=True)) for table in tables
    )
    assert len(ours) == 72
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == pytest.approx(theirs[name], abs=1e-6) for name in ours)


# what is told of a run where it ends, and its thresholds


def test_a_finished_run_says_how_sure_its_scores_are(straight: Path) -> None:
    summary = json.loads((straight / "summary.json").read_text())
    of_test = json.loads((straight / "summary_test.json").read_text())
    for name in ("macro_f1", "macro_f1_tuned", "micro_f1_tuned", "map", "coverage_error", "ece", "macro_f1_filled"):
        assert {name, f"test_{name}"} <= summary.keys()
        low, high = summary["intervals"][name]
        assert low <= high
        assert summary["intervals"][f"test_{name}"] == of_test["intervals"][name]
    low, high = summary["intervals"]["brier"]
    assert low < summary["brier"] < high
    assert "intervals" not in (straight / "metrics.jsonl").read_text()
    for name in ("per_class.csv", "per_class_test.csv"):
        with (straight / name).open() as file:
            rows = list(csv.DictReader(file))
        present = [row for row in rows if int(row["support"]) > 0]
        assert present
        assert all(float(row["f1_low"]) <= float(row["f1_high"]) for row in rows)
        assert all(float(row["ap_low"]) <= float(row["ap_high"]) for row in present)
        assert all(row["ap_low"] == "" for row in rows if int(row["support"]) == 0)
        assert all(0 <= float(row["ece"]) <= 1 for row in rows)
    log = (straight / "run.log").read_text()
    low, high = summary["intervals"]["test_macro_f1_tuned"]
    assert f"{summary['test_macro_f1_tuned']:.3f} ({low:.3f}-{high:.3f})" in log


def test_a_finished_run_compares_the_threshold_rules(straight: Path) -> None:
    rules = json.loads((straight / "thresholds.json").read_text())
    summary = json.loads((straight / "summary.json").read_text())
    assert list(rules) == ["fixed", "global", "per_class", "share", "stored"]
    assert rules["stored"] == "per_class"
    assert rules["per_class"]["thresholds"] == list(load_model(str(straight)).card.thresholds)
    assert rules["per_class"]["macro_f1"] == summary["macro_f1_tuned"]
    assert [rules["per_class"][end] for end in ("macro_f1_low", "macro_f1_high")] == pytest.approx(
        summary["intervals"]["macro_f1_tuned"]
    )
    assert rules["fixed"]["macro_f1"] == summary["macro_f1"]


@pytest.fixture
def copied(straight: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(straight, tmp_path / "copied"))


def test_thresholds_are_stored_anew_without_training(copied: Path, straight: Path) -> None:
    asked = [f"evaluate.run={copied}", "evaluate.part=val", "thresholds.rule=share"]
    before = (copied / "model.safetensors").read_bytes()
    assert main(["evaluate", *asked]) == 0
    assert (copied / "model.safetensors").read_bytes() == before
    told = json.loads((copied / "summary_val.json").read_text())
    rules = json.loads((copied / "thresholds.json").read_text())
    assert told["threshold_rule"] == "share"
    assert told["macro_f1_tuned"] == rules["share"]["macro_f1"]
    assert rules["stored"] == "per_class"

    assert main(["evaluate", *asked, "evaluate.store_thresholds=true"]) == 0
    old, new = load_model(str(straight)), load_model(str(copied))
    assert list(new.card.thresholds) == rules["share"]["thresholds"] != list(old.card.thresholds)
    assert yaml.safe_load(new.card.config)["thresholds"]["rule"] == "share"
    weights = new.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in old.model.state_dict().items())
    assert json.loads((copied / "thresholds.json").read_text())["stored"] == "share"

    assert main(["evaluate", f"evaluate.run={copied}"]) == 0  # the test part, by the new ones
    table = pq.read_table(copied / "predictions_test.parquet")
    assert table["thresholds"][0].as_py() == pytest.approx(list(new.card.thresholds))
    assert json.loads((copied / "summary_test.json").read_text())["threshold_rule"] == "share"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["evaluate.store_thresholds=true"], "evaluate.store_thresholds=true with evaluate.part = test: "),
        (["evaluate.part=all", "evaluate.store_thresholds=true"], "with evaluate.part = all: "),
        (["thresholds.rule=share"], "thresholds.* does nothing with evaluate.part = test"),
    ],
)
def test_thresholds_are_not_found_on_other_parts(
    asked: list[str], told: str, straight: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"evaluate.run={straight}", f"evaluate.output={tmp_path}", *asked]) == 2
    error = capfd.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_runs_and_models_from_before_there_were_rules(
    copied: Path, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    shipped = load_model(str(copied))
    tree = yaml.safe_load(shipped.card.config)
    assert tree.pop("thresholds")["rule"] == "per_class"
    card = shipped.card.model_copy(update={"config": yaml.safe_dump(tree)})
    save_model(str(copied / "model.safetensors"), shipped.model, card)
    assert main(["evaluate", f"evaluate.run={copied}", "evaluate.part=val"]) == 0
    assert json.loads((copied / "summary_val.json").read_text())["threshold_rule"] == "per_class"

    stored = yaml.safe_load((copied / "config.yaml").read_text())
    del stored["thresholds"]
    stored["run"] |= {"name": "copied", "storage": str(copied.parent)}
    (copied / "config.yaml").write_text(yaml.safe_dump(stored))
    mine = [word for word in words if not word.startswith("run.")]
    again = ["train", *mine, f"run.storage={copied.parent}", "run.name=copied", "run.resume=true"]
    assert main(again) == 0
    assert main([*again, "thresholds.rule=global"]) == 2
    assert "thresholds.rule: per_class there, global here" in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_help_lists_the_keys_of_thresholds(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert "thresholds.rule = per_class" in capfd.readouterr().out


def test_a_run_may_ask_for_another_rule(words: list[str]) -> None:
    asked = ["run.name=global", "train.epochs=1", "thresholds.rule=global"]
    assert main(["train", *words, *asked]) == 0
    folder = folder_of(words, "global")
    assert len(set(load_model(str(folder)).card.thresholds)) == 1
    rules = json.loads((folder / "thresholds.json").read_text())
    assert rules["stored"] == "global"
    assert rules["global"]["macro_f1"] == json.loads((folder / "summary.json").read_text())["macro_f1_tuned"]
