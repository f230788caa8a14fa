"""Training steps without Ray: what is learned, what workers may not change, what a stop may not change."""

import itertools
import json
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from small_runs import CPU, NO_BATCH_NORM, PLAIN, RICH, ProcessHost, run, without_times

from hpa_ray.checkpoint.model_file import load_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import LossConfig, SamplingConfig, load_config
from hpa_ray.errors import InputError
from hpa_ray.loss import LOSSES
from hpa_ray.stream import Data, EpochOrder, Place, Schedule, Steps, open_data, training_samples
from hpa_ray.stream.device import DeviceBatch, to_device
from hpa_ray.train.host import LocalHost
from hpa_ray.train.learner import STEPS, Learner


def learner_and_batches(shards: str, *words: str) -> tuple[Learner, Iterator[DeviceBatch], Data]:
    config = load_config([f"data.shards={shards}", "split.parts=40/20", *words])
    data, host = open_data(config), LocalHost(False, 2, lambda event: None)
    samples = training_samples(config, data)
    order = EpochOrder(samples.num_samples, 0)
    steps = Steps(order.num_rows, config.train.batch_size, 1)
    schedule = Schedule(
        data.parts["train"], data.parts["val"][:0], samples, order, steps, 0, Place(0, steps), config.train.epochs
    )
    return Learner(config, data, host, steps), to_device(host.feed(data.source, schedule), data, CPU), data


@pytest.mark.parametrize("name", ["resnet50", "resnet50_enhanced", "mlp6"])
def test_a_model_learns_a_few_images_by_heart(name: str, shards: str, tmp_path: Path) -> None:
    """Macro F1 1.0 over the classes that occur, in eval mode, at threshold 0.5."""
    words = [f"model.name={name}", "optim.lr=1e-3", "train.epochs=45", "train.batch_size=20", "train.select=macro_f1"]
    learner, batches, data = learner_and_batches(shards, *PLAIN, *words)
    rows = data.parts["train"][:32]
    pixels, targets = data.source.read(rows).pixels_BCSS, data.targets_NK[rows].astype(bool)
    images = torch.from_numpy(pixels.copy())
    for batch in batches:
        epoch, step = batch.batch.epoch, batch.batch.step
        if step == 0:
            learner.begin_epoch(epoch)
        learner.learn(batch, epoch, step)
        if step == learner.steps.per_epoch - 1 and epoch % 5 == 4:
            learner.end_epoch(epoch)
            predicted = learner.predict(images).numpy() >= 0
            if (predicted == targets).all():
                break
    hits = (predicted & targets).sum(axis=0)
    f1 = 2 * hits / np.maximum(predicted.sum(axis=0) + targets.sum(axis=0), 1)
    assert f1[targets.any(axis=0)].mean() == 1.0


class StopsAfter(LocalHost):
    """Is stopped once an epoch's checkpoint is stored."""

    def __init__(self, epoch: int) -> None:
        super().__init__(False, 2, lambda event: None)
        self.last = epoch

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        if metrics["epoch"] == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_with_everything_on_is_the_same_straight_and_stopped(stop: int, shards: str, tmp_path: Path) -> None:
    """Averages, sampling, dropout, mixed images, freezing, accumulation, sizes: none remembers what is not stored."""
    words = [*RICH, "train.epochs=4", "train.batch_size=6"]
    straight = run(shards, tmp_path / "straight", *words)
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path / "stopped", *words, host=StopsAfter(stop))
    assert len(RunFolder(str(tmp_path / "stopped")).read_metrics()) == stop
    assert without_times(run(shards, tmp_path / "stopped", *words)) == without_times(straight)
    if stop == 1:  # and the same seed again gives the same bits, another seed others
        assert without_times(run(shards, tmp_path / "again", *words)) == without_times(straight)
        other = run(shards, tmp_path / "other", *words, "run.seed=1", "train.epochs=1", "train.sizes=32")
        assert other[0]["train_loss"] != straight[0]["train_loss"]


def test_what_is_shipped_is_the_average(shards: str, tmp_path: Path) -> None:
    words = ["model.name=resnet18", "train.epochs=2", "train.batch_size=10"]
    run(shards, tmp_path / "plain", *words)
    run(shards, tmp_path / "ema", *words, "train.ema_decay=0.99")
    state = RunFolder(str(tmp_path / "ema")).load_checkpoint()
    assert state is not None
    shipped = load_model(str(tmp_path / "ema" / "model_last.safetensors")).model.state_dict()
    averaged, trained = state["average"]["model"], state["model"]
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in shipped.items())
    assert not torch.equal(trained["backbone.fc.weight"], shipped["backbone.fc.weight"])
    plain = load_model(str(tmp_path / "plain" / "model_last.safetensors")).model.state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in trained.items())  # the average changes no training


def one_of_two(rank: int, meeting: str, shards: str, runs: list[tuple[str, list[str]]]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for folder, words in runs:
        run(shards, Path(folder), *words, host=ProcessHost(CPU))
    torch.distributed.destroy_process_group()


WORKERS = {
    "plain": [],
    "accumulated": ["train.accumulate=2"],
    "scaled": ["optim.lr_scaling=linear", "optim.lr_batch_size=5"],
    "repeated": ["sampling.name=repeat_factor", "sampling.threshold=0.3"],
    "frozen": ["train.freeze_epochs=1", "train.ema_decay=0.9"],
}


def test_two_workers_with_half_the_batch_equal_one(shards: str, tmp_path: Path) -> None:
    runs = [
        (f"{tmp_path}/two-{name}", [*NO_BATCH_NORM, *words, "train.batch_size=5"]) for name, words in WORKERS.items()
    ]
    torch.multiprocessing.spawn(one_of_two, (f"{tmp_path}/meeting", shards, runs), nprocs=2)
    for name, words in WORKERS.items():
        alone = run(shards, tmp_path / f"one-{name}", *NO_BATCH_NORM, *words, "train.batch_size=10")
        together = RunFolder(f"{tmp_path}/two-{name}").read_metrics()
        for ours, theirs in zip(alone, together, strict=True):
            for key in ("train_loss", "val_loss", "lr", "map", "train_macro_f1"):
                assert theirs[key] == pytest.approx(ours[key], rel=1e-5), (name, key)


def test_accumulated_batches_are_one_batch(shards: str, tmp_path: Path) -> None:
    """40 images: 4 batches of 10 in pairs, or 2 of 20."""
    words = [*NO_BATCH_NORM, "augment.preset=light"]
    pairs = run(shards, tmp_path / "pairs", *words, "train.batch_size=10", "train.accumulate=2")
    whole = run(shards, tmp_path / "whole", *words, "train.batch_size=20")
    for ours, theirs in zip(whole, pairs, strict=True):
        assert theirs["val_loss"] == pytest.approx(ours["val_loss"], rel=1e-5)


def test_only_the_last_layer_trains_while_frozen(shards: str) -> None:
    learner, batches, _ = learner_and_batches(
        shards, "model.name=resnet18", "train.freeze_epochs=1", "train.epochs=2", "train.batch_size=20"
    )
    states = [{name: tensor.clone() for name, tensor in learner.model.state_dict().items()}]
    for batch in batches:
        if batch.batch.step == 0:
            learner.begin_epoch(batch.batch.epoch)
        learner.learn(batch, batch.batch.epoch, batch.batch.step)
        if batch.batch.step == learner.steps.per_epoch - 1:
            learner.end_epoch(batch.batch.epoch)
            states.append({name: tensor.clone() for name, tensor in learner.model.state_dict().items()})
    pairs = itertools.pairwise(states)
    changed = [{name for name in before if not torch.equal(before[name], after[name])} for before, after in pairs]
    assert changed[0] == {"backbone.fc.weight", "backbone.fc.bias"}
    assert {"backbone.conv1.weight", "backbone.bn1.running_mean", "backbone.fc.weight"} < changed[1]


def test_progressive_sizes(shards: str) -> None:
    learner, batches, _ = learner_and_batches(
        shards, "model.name=resnet18", "train.sizes=16,24,32", "train.epochs=6", "augment.preset=none"
    )
    batch = next(batches)
    learner.begin_epoch(0)
    sizes = [learner.prepared(batch, epoch)[0].shape[-1] for epoch in range(6)]
    assert sizes == [16, 16, 24, 24, 32, 32]
    assert torch.equal(learner.prepared(batch, 5)[0], batch.images_BCSS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.sizes=16,24"], r"train.sizes = 16,24: the last must be the side of the data, 32 px"),
        (["train.sizes=16,32", "model.name=mlp6"], r"mlp6: .*16"),
    ],
)
def test_sizes_that_can_not_be(words: list[str], told: str, shards: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        learner_and_batches(shards, "model.name=resnet18", *words)
    assert "\n" not in str(caught.value)


def test_the_first_loss_that_is_not_finite_is_named(shards: str, tmp_path: Path) -> None:
    learner, batches, _ = learner_and_batches(shards, "model.name=mlp6", "train.batch_size=10", "train.epochs=2")
    for number, batch in enumerate(batches):
        if batch.batch.step == 0:
            learner.begin_epoch(batch.batch.epoch)
        assert learner.failed_at == (-1 if number < 6 else STEPS + 1)  # of four steps per epoch the sixth
        if number == 5:
            batch = batch._replace(targets_BK=batch.targets_BK * torch.nan)
        learner.learn(batch, batch.batch.epoch, batch.batch.step)
    with pytest.raises(InputError, match=r"not a finite number in epoch \d+, step \d+: lower optim.lr"):
        run(shards, tmp_path, "model.name=mlp6", "optim.name=sgd", "optim.lr=1e12", *PLAIN)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("words", [["train.precision=bf16"], ["train.channels_last=true"]])
def test_other_precision_and_layout_learn_about_the_same(words: list[str], shards: str, tmp_path: Path) -> None:
    common = [*PLAIN, "model.name=resnet18", "train.epochs=1", "train.batch_size=10"]
    ours, theirs = run(shards, tmp_path / "a", *common), run(shards, tmp_path / "b", *common, *words)
    assert theirs[0]["train_loss"] == pytest.approx(ours[0]["train_loss"], rel=0.02)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
def test_a_compiled_model_learns_the_same(shards: str, tmp_path: Path) -> None:
    common = [*PLAIN, "model.name=mlp6", "train.epochs=2", "train.batch_size=10"]
    ours, theirs = run(shards, tmp_path / "a", *common), run(shards, tmp_path / "b", *common, "train.compile=true")
    for mine, other in zip(ours, theirs, strict=True):
        assert other["train_loss"] == pytest.approx(mine["train_loss"], rel=1e-4)


def test_without_a_compiler_compiling_is_refused(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler"):
        learner_and_batches(shards, "model.name=mlp6", "train.compile=true")


def test_early_stopping_keeps_the_best_and_says_so(shards: str, tmp_path: Path) -> None:
    """A learning rate of next to nothing: the scores of the first epoch stay."""
    words = [*PLAIN, "model.name=mlp6", "optim.lr=1e-30", "train.epochs=9", "train.patience=2", "train.select=map"]
    lines = run(shards, tmp_path, *words)
    assert len(lines) == 3
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["stopped_early"], summary["best_epoch"]) == ("done", True, 1)
    assert len(run(shards, tmp_path, *words)) == 3  # resuming a run that has stopped goes on with nothing
    assert (tmp_path / "model_last.safetensors").exists()


@pytest.mark.parametrize(("select", "pick"), [("val_loss", min), ("micro_f1", max), ("auroc", max)])
def test_the_epoch_that_is_kept_is_the_best_by_the_score_asked_for(
    select: str, pick: Any, shards: str, tmp_path: Path
) -> None:
    lines = run(
        shards, tmp_path, *PLAIN, "model.name=mlp6", "train.epochs=6", "optim.lr=0.003", f"train.select={select}"
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["best_epoch"] == 1 + [line[select] for line in lines].index(pick(line[select] for line in lines))


def test_the_validation_loss_is_that_of_the_whole_part(shards: str, tmp_path: Path) -> None:
    lines = run(shards, tmp_path, *PLAIN, "model.name=mlp6", "train.epochs=1", "loss.label_smoothing=0.2")
    shipped = load_model(str(tmp_path))
    config = load_config([f"data.shards={shards}", "split.parts=40/20"])
    data = open_data(config)
    rows = data.parts["val"]
    with torch.no_grad():
        logits = shipped.model(torch.from_numpy(data.source.read(rows).pixels_BCSS.copy()))
    targets = torch.from_numpy(data.targets_NK[rows]).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert lines[0]["val_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_run_folder_shows_augmented_samples_layers_and_scores_of_both_parts(shards: str, tmp_path: Path) -> None:
    lines = run(shards, tmp_path, "model.name=resnet18", "train.epochs=1", "augment.preset=heavy")
    for name in ("augmented.png", "layers.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")
    layers = (tmp_path / "layers.csv").read_text().splitlines()
    assert layers[0] == "name,kind,output_shape,num_parameters"
    total = sum(int(line.rpartition(",")[2]) for line in layers[1:])
    assert total == sum(p.numel() for p in load_model(str(tmp_path)).model.parameters())
    assert {"train_loss", "val_loss", "train_macro_f1", "train_micro_f1", "train_exact_match"} < lines[0].keys()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_weighting_and_sampling_runs_an_epoch_under_autocast(loss: str, shards: str) -> None:
    """Warnings are errors in these tests; the loss is float32 and stays finite."""
    for weighting, sampling in itertools.product(
        typing.get_args(LossConfig.model_fields["weighting"].annotation),
        typing.get_args(SamplingConfig.model_fields["name"].annotation),
    ):
        words = [f"loss.name={loss}", f"loss.weighting={weighting}", f"sampling.name={sampling}", "train.epochs=1"]
        words += ["model.name=mlp6", "train.precision=bf16", "train.batch_size=20", "loss.logit_adjustment=0.5"]
        learner, batches, _ = learner_and_batches(shards, *words, "augment.preset=none", "augment.cutmix=1")
        learner.begin_epoch(0)
        for batch in batches:
            losses_B, logits_BK = learner.learn(batch, 0, batch.batch.step)
            assert (losses_B.dtype, logits_BK.dtype) == (torch.float32, torch.bfloat16)
        assert learner.failed_at == -1, (weighting, sampling)
