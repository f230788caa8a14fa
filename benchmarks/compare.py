"""Which system and which loss is better: several seeds of each choice on one data set, as a table of mean and spread.

    uv run benchmarks/compare.py ladder FOLDER --labels train.csv    # the systems of the two reports
    uv run benchmarks/compare.py rare   FOLDER --labels train.csv    # losses, weights, sampling for rare classes
    uv run benchmarks/compare.py ladder FOLDER --data TILES          # on given images: TILES/train, TILES/train.csv

Images are synthetic, drawn for the label sets of the given csv; every run is `hpa-ray train`, in `--processes` of them
side by side, each on one CPU (with a GPU give 1). Finished runs are kept: the same command goes on.
"""

import argparse
import contextlib
import csv
import io
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from hpa_ray.cli.main import main as hpa_ray
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.metrics import per_class

# N images, K classes


class Choice(NamedTuple):
    name: str
    size_px: int  # at full scale
    words: tuple[str, ...]
    reported: str = ""


def ladder() -> list[Choice]:
    """The systems of the two reports, in the order in which they were built."""
    recipes = (
        ("ResNet50, green, 128 px", 128, "report1_model1", "macro F1 0.16"),
        ("enhanced ResNet50, green, 256 px", 256, "report1_model2", ""),
        ("enhanced ResNet50, red green blue, 256 px", 256, "report1_model3", ""),
        ("enhanced ResNet50, all four, 256 px", 256, "report1_model4", "macro F1 0.32"),
        ("six-layer MLP, red green blue, 512 px", 512, "report2_mlp", "micro F1 0.21"),
    )
    return [Choice(name, px, ("--recipe", recipe), reported) for name, px, recipe, reported in recipes]


def rare() -> list[Choice]:
    """One thing changed at a time against plain BCE, and one combination."""
    base = ("model.name=resnet18", "augment.preset=light", "train.batch_size=32", "optim.lr=1e-3")
    changes = {
        "bce": (),
        "focal": ("loss.name=focal",),
        "asl": ("loss.name=asl",),
        "distribution_balanced": ("loss.name=distribution_balanced",),
        "soft_f1": ("loss.name=soft_f1",),
        "bce_soft_f1_alternating": ("loss.name=bce_soft_f1_alternating",),
        "lovasz_hinge": ("loss.name=lovasz_hinge",),
        "bce, inverse on positives": ("loss.weighting=inverse", "loss.weight_on=positives"),
        "bce, sqrt_inverse": ("loss.weighting=sqrt_inverse",),
        "bce, gentle": ("loss.weighting=gentle",),
        "bce, logit adjustment": ("loss.logit_adjustment=1",),
        "bce, repeat_factor": ("sampling.name=repeat_factor",),
        "bce, class_balanced": ("sampling.name=class_balanced",),
        "asl, repeat_factor": ("loss.name=asl", "sampling.name=repeat_factor"),
        "bce, rare augmented": ("augment.preset=medium", "augment.rare_only=true"),
    }
    return [Choice(name, 256, (*base, *words)) for name, words in changes.items()]


class Result(NamedTuple):
    """Scores on the test part, thresholds tuned on validation but for the names that say 0.5."""

    macro_f1: float
    macro_f1_at_half: float
    micro_f1: float
    micro_f1_at_half: float
    precision: float
    recall: float
    exact_match: float
    proportional_accuracy: float
    mean_ap: float
    rare_f1: float
    rare_ap: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("ladder", "rare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=Path, help="csv with the label sets of the synthetic images")
    parser.add_argument("--data", type=Path, help="folder with train/ and train.csv instead of synthetic images")
    parser.add_argument("--scale", type=float, default=0.25, help="of the sides in px; 1: as in the reports")
    parser.add_argument("--images", type=int, default=5000, help="images used, of all that the csv has; 0: all")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the choices to run")
    parser.add_argument("--words", nargs="*", default=[], help="further key=value words for every run")
    options = parser.parse_args()
    choices = {"ladder": ladder, "rare": rare}[options.study]()
    choices = [choice for choice in choices if not options.only or any(part in choice.name for part in options.only)]
    labels = options.data / "train.csv" if options.data else options.labels
    split = split_of(options, labels)
    images = draw(options, split, max(choice.size_px for choice in choices))
    shards = prepare(options, images, split, sorted({round(choice.size_px * options.scale) for choice in choices}))
    jobs = [(choice, seed) for choice in choices for seed in range(options.seeds)]
    context = multiprocessing.get_context("spawn")
    numbers = context.SimpleQueue()
    for number in range(options.processes):
        numbers.put(number)
    with ProcessPoolExecutor(options.processes, context, bind, (numbers, options.processes)) as pool:
        done = [pool.submit(train, words_of(options, shards, split, *job), run_folder(options, *job)) for job in jobs]
        for future, (choice, seed) in zip(done, jobs, strict=True):
            print(f"{choice.name}, seed {seed}: {future.result():.0f} s", file=sys.stderr, flush=True)
    rarest = rarest_classes(labels)
    results = {
        choice: [result_of(options, split, choice, seed, rarest) for seed in range(options.seeds)] for choice in choices
    }
    text = table(options, results, rarest)
    print(text)
    (options.folder / f"{options.study}.md").write_text(text)


def draw(options: argparse.Namespace, split: Path, size_px: int) -> Path:
    """The folder of the images: the given one, or one of synthetic images for the rows in use."""
    if options.data:
        return Path(options.data)
    images: Path = options.folder / f"{options.study}-atlas"
    if not (images / "train.csv").exists():
        side = max(128, round(size_px * options.scale))
        run(["synth", f"synth.labels={labels_beside(split)}", f"synth.image_size={side}", f"synth.output={images}"])
    return images


def prepare(options: argparse.Namespace, images: Path, split: Path, sizes: Sequence[int]) -> Path:
    """Shards of the images in use at all sides, from one pass over the files."""
    output: Path = options.folder / f"{options.study}-shards"
    words = [f"data.images={images}/train", f"data.labels={labels_beside(split)}", f"prepare.output={output}"]
    run(["prepare", *words, f"prepare.sizes={','.join(map(str, sizes))}", "prepare.num_workers=0"])
    return output


def split_of(options: argparse.Namespace, labels: Path) -> Path:
    """The parts, as a csv that lists the images in use: half trains, a tenth validates, the rest tests.

    For `ladder` a random draw of all images, for `rare` first all that hold one of the seven rarest classes.
    """
    rows = list(csv.DictReader(labels.open()))
    options.folder.mkdir(parents=True, exist_ok=True)
    path: Path = options.folder / f"{options.study}-split.csv"
    if options.images and options.images < len(rows):
        targets = multi_hot([row["Target"] for row in rows])
        order = np.random.default_rng(0).permutation(len(rows))
        if options.study == "rare":
            first = targets[:, rarest_classes(labels)].any(axis=1)
            order = order[np.argsort(~first[order], kind="stable")]
        rows = [rows[k] for k in sorted(order[: options.images])]
    used = labels_beside(path)
    used.write_text("Id,Target\n" + "".join(f"{row['Id']},{row['Target']}\n" for row in rows))
    run(["split", f"data.labels={used}", "split.parts=0.5/0.1/0.4", f"split.output={path}"])
    return path


def words_of(options: argparse.Namespace, shards: Path, split: Path, choice: Choice, seed: int) -> list[str]:
    folder = run_folder(options, choice, seed)
    side = round(choice.size_px * options.scale)
    return [
        *choice.words,
        f"data.shards={shards / f'{side}px'}",
        f"data.split={split}",
        f"run.storage={folder.parent}",
        f"run.name={folder.name}",
        f"run.seed={seed}",
        "run.resume=true",
        "train.num_workers=0",
        f"train.epochs={options.epochs}",
        *options.words,
    ]


def bind(numbers: Any, num_processes: int) -> None:
    """Give this process of several one CPU of its own: threads of several would only wait for each other.

    It ends when the program does, however that ends: a training would go on unseen.
    """
    program = os.getppid()

    def end_too() -> None:
        while os.getppid() == program:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=end_too, daemon=True).start()
    if num_processes > 1:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[numbers.get()]})


def train(words: list[str], folder: Path) -> float:
    """Seconds of a run as a user would start it, unless it is there already; a process does several, one by one."""
    note = folder.with_suffix(".words")  # what the finished run was made with
    if note.exists() and note.read_text() != " ".join(words):
        raise RuntimeError(f"{folder} is of other settings: delete it, or give another FOLDER")
    if not (folder / "summary_test.json").exists():
        folder.parent.mkdir(exist_ok=True)
        note.write_text(" ".join(words))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = hpa_ray(["train", *words])
        if code:
            raise RuntimeError(f"hpa-ray train {' '.join(words)}\n{said.getvalue()[-2000:]}")
    return float(json.loads((folder / "summary.json").read_text())["wall_s"])


def run_folder(options: argparse.Namespace, choice: Choice, seed: int) -> Path:
    name = "".join(char if char.isalnum() else "-" for char in choice.name)
    return Path(options.folder) / "runs" / f"{options.study}-{name}-{seed}"


def result_of(options: argparse.Namespace, split: Path, choice: Choice, seed: int, rarest: list[int]) -> Result:
    folder = run_folder(options, choice, seed)
    summary = json.loads((folder / "summary_test.json").read_text())
    predictions = pq.read_table(folder / "predictions_test.parquet")
    ids = predictions["image_id"].to_pylist()
    probabilities = np.stack(predictions["probabilities"].to_numpy())
    target_of = {row["Id"]: row["Target"] for row in csv.DictReader(labels_beside(split).open())}
    targets = multi_hot([target_of[image_id] for image_id in ids])
    columns = {row["class"]: row for row in csv.DictReader((folder / "per_class_test.csv").open())}
    rare_f1 = float(np.mean([float(columns[str(k)]["f1"] or 0) for k in rarest]))
    precision = per_class(probabilities, targets)["average_precision"]
    return Result(
        summary["macro_f1_tuned"],
        summary["macro_f1"],
        summary["micro_f1_tuned"],
        summary["micro_f1"],
        summary["precision_micro_tuned"],
        summary["recall_micro_tuned"],
        summary["exact_match_tuned"],
        summary["proportional_accuracy_tuned"],
        summary["map"],
        rare_f1,
        float(np.nanmean(np.asarray(precision)[rarest])),
    )


def rarest_classes(labels: Path) -> list[int]:
    """The seven with the fewest images in the whole csv, of those that have any."""
    counts = multi_hot([row["Target"] for row in csv.DictReader(labels.open())]).sum(axis=0)
    present = [int(k) for k in np.argsort(counts, kind="stable") if counts[k]]
    return present[:7]


def labels_beside(split: Path) -> Path:
    return split.with_name(split.name.replace("-split", "-labels"))


def multi_hot(label_sets: Sequence[str]) -> np.ndarray:
    targets = np.zeros((len(label_sets), NUM_CLASSES), np.uint8)
    for row, labels in enumerate(label_sets):
        targets[row, [int(word) for word in labels.split()]] = 1
    return targets


def table(options: argparse.Namespace, results: dict[Choice, list[Result]], rarest: list[int]) -> str:
    """Markdown: mean and standard deviation over the seeds."""
    titles = ("macro F1", "at 0.5", "micro F1", "at 0.5", "precision", "recall", "exact match", "prop. accuracy")
    titles += ("mAP", "F1 of the 7 rarest", "AP of the 7 rarest")
    what = "real images" if options.data else "synthetic images"
    lines = [
        f"{what}, {options.scale:g} of the sides, {options.epochs} epochs, {options.seeds} seeds: mean +- standard "
        f"deviation on the test part; the rarest classes are {', '.join(map(str, rarest))}",
        "",
        f"| | {' | '.join(titles)} | reported |",
        f"| --- |{' --- |' * (len(titles) + 1)}",
    ]
    for choice, runs in results.items():
        values = np.array(runs)
        spread = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(values.shape[1])
        cells = [f"{mean:.3f} +- {sd:.3f}" for mean, sd in zip(values.mean(axis=0), spread, strict=True)]
        lines.append(f"| {choice.name} | {' | '.join(cells)} | {choice.reported} |")
    return "\n".join(lines) + "\n"


def run(words: list[str]) -> None:
    if code := hpa_ray(words):
        raise SystemExit(code)


if __name__ == "__main__":
    main()
