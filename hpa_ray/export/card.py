"""The model card: what a model is, what it was trained on, how good it is, and what it must not be used for.

Before: a run folder. After: cli. The form is that of Mitchell et al., Model Cards for Model Reporting (2019).
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hpa_ray import __version__
from hpa_ray.checkpoint.model_file import ModelCard
from hpa_ray.labels import CLASS_NAMES

SCORES = {
    "macro_f1_tuned": "macro F1 at tuned thresholds",
    "macro_f1": "macro F1 at 0.5",
    "micro_f1_tuned": "micro F1 at tuned thresholds",
    "micro_f1": "micro F1 at 0.5",
    "macro_f1_rare_tuned": "macro F1 of the rare classes at tuned thresholds",
    "proportional_accuracy_tuned": "proportional accuracy at tuned thresholds",
    "exact_match_tuned": "exact match at tuned thresholds",
    "map": "mean average precision",
    "auroc": "area under the ROC curve",
    "floor_macro_f1": "macro F1 of the best constant prediction",
    "floor_micro_f1": "micro F1 of the best constant prediction",
}
SETTINGS = (
    *("model.weights", "model.pooling", "model.dropout", "model.normalize"),
    *("loss.name", "loss.weighting", "sampling.name", "augment.preset"),
    *("optim.name", "optim.lr", "optim.schedule", "train.epochs", "train.batch_size", "train.precision", "run.seed"),
)
EXAMPLE = """\
import json
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
facts = session.get_modelmeta().custom_metadata_map
names, thresholds = json.loads(facts["class_names"]), np.array(json.loads(facts["thresholds"]))
images = np.zeros((1, {channels}, {side}, {side}), np.uint8)  # your images: {stains}, 0 to 255
logits, probabilities = session.run(["logits", "probabilities"], {{"images": images}})
print([[names[k] for k in np.flatnonzero(row >= thresholds)] for row in probabilities])"""
EXAMPLE_TORCH = """\
import torch
from hpa_ray.checkpoint.model_file import load_model
model, card = load_model("model.safetensors")
images = torch.zeros(1, {channels}, {side}, {side}, dtype=torch.uint8)  # your images: {stains}, 0 to 255
print(model(images).sigmoid() >= torch.tensor(card.thresholds))"""


def model_card(
    card: ModelCard,
    summary: Mapping[str, Any],
    classes: Sequence[Mapping[str, str]],
    *,
    differences: Mapping[str, float],
) -> str:
    """README.md. summary: summary.json; classes: rows of the per-class table; differences: file -> of its logits.

    What the run does not tell is left out, and so are places and names of the machine.
    """
    stains, side = ", ".join(card.channels), card.image_size
    part = "test_" if "test_macro_f1" in summary else ""
    where = "test" if part else "validation"
    facts = {"channels": len(card.channels), "side": side, "stains": stains}
    has_onnx = any(name.endswith(".onnx") for name in differences)
    text = io.StringIO()

    def say(*lines: str) -> None:
        text.write("\n".join(lines) + "\n\n")

    say(f"# {card.model.name}, protein location in HPA images")
    say(
        f"A multi-label classifier of where a protein sits in the cell: {len(CLASS_NAMES)} classes (vocabulary "
        f"`{card.vocabulary}`), several per image. It takes {stains} ({len(card.channels)} channels, stain order "
        f"`{card.stain_order}`) of {side} x {side} px as uint8 and normalises them itself. Trained and exported by "
        f"hpa_ray {__version__}, run `{card.run}`, epoch {card.epoch}."
    )
    say("## Data")
    counts = [("trained on", "num_train_images"), ("validated on", "num_images"), ("tested on", "test_num_images")]
    told = [f"{name} {summary[key]:,} images" for name, key in counts if isinstance(summary.get(key), int)]
    present = summary.get(f"{part}num_present_classes")
    told += [f"{present} of {len(CLASS_NAMES)} classes occur in the {where} part"] if present is not None else []
    say("; ".join(told)[:1].upper() + "; ".join(told)[1:] + "." if told else "The run folder does not tell.")
    say("## Training")
    settings = _settings(card.config)
    say("| setting | value |", "| --- | --- |", *(f"| `{key}` | {value} |" for key, value in settings.items())) if (
        settings
    ) else say("The model file does not tell.")
    say("## Scores")
    rows = [(name, summary.get(part + key), _interval(summary, part + key)) for key, name in SCORES.items()]
    rows = [row for row in rows if isinstance(row[1], float)]
    if rows:
        say(
            f"On the {where} part. "
            + (
                "No choice of the run has seen it."
                if part
                else "Epoch and thresholds were chosen on it, so new images score lower; tuned scores are cross-fitted."
            ),
        )
        say("| score | value |", "| --- | --- |", *(f"| {name} | {value:.3f}{more} |" for name, value, more in rows))
    else:
        say("The run folder does not tell.")
    if classes:
        seen = "" if part else ", which the thresholds were tuned on: a flattering table"
        say(f"Classes of the {where} part{seen}:")
        head = ("class", "name", "support", "precision", "recall", "f1", "average_precision")
        kept = [name for name in head if name in classes[0]]
        say(
            f"| {' | '.join(kept)} |",
            f"|{' --- |' * len(kept)}",
            *(f"| {' | '.join(_cell(row[name]) for name in kept)} |" for row in classes),
        )
    say("## Limits")
    say(
        "- Not for diagnosis or any decision about a patient: it names where a stained protein sits in cultured cells.",
        "- Made for confocal images of the Human Protein Atlas with these stains. Other microscopes, stains, cell "
        "types and magnifications change intensities and scale, and the scores above say nothing about them.",
        "- Images of several sources must be brought to the intensities of the first, as hpa_ray does from its shards.",
        "- Labels of an image hold for the whole field of view, not for each cell in it.",
        "- Classes with few images are known badly; look at their row above, not at the mean.",
        "- Probabilities are not calibrated: compare them with the thresholds of their own class only.",
    )
    say("## Thresholds")
    say(
        "A class is predicted at or above its threshold, tuned on the validation part.",
        "",
        "| class | name | threshold |",
        "| --- | --- | --- |",
        *(f"| {k} | {name} | {card.thresholds[k]:.4f} |" for k, name in enumerate(CLASS_NAMES)),
    )
    say("## Use")
    if has_onnx:
        say("With onnxruntime alone:", "", "```python", EXAMPLE.format(**facts), "```")
    say("With hpa_ray:", "", "```python", EXAMPLE_TORCH.format(**facts), "```")
    say("## Files")
    say(
        *(
            f"- `{name}`: logits of 8 random images differ from the trained model's by at most {value:.1e}"
            for name, value in differences.items()
        )
    )
    return text.getvalue().rstrip() + "\n"


def read_classes(content: str) -> list[dict[str, str]]:
    """The rows of per_class.csv."""
    return list(csv.DictReader(io.StringIO(content)))


def _settings(config: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(config) or {}
        found = {key: tree[key.split(".")[0]][key.split(".")[1]] for key in SETTINGS}
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    weights = found["model.weights"]
    if weights is None:
        found["model.weights"] = "none, from scratch"
    if isinstance(weights, str) and "/" in weights:  # a place on somebody's machine
        found["model.weights"] = weights.rpartition("/")[2]
    return found


def _interval(summary: Mapping[str, Any], key: str) -> str:
    """` (low to high)` where the summary has the interval of a score."""
    bounds = (summary.get("intervals") or {}).get(key)
    if isinstance(bounds, Sequence) and len(bounds) == 2 and all(isinstance(b, (int, float)) for b in bounds):
        return f" ({bounds[0]:.3f} to {bounds[1]:.3f})"
    return ""


def _cell(text: str) -> str:
    try:
        return f"{float(text):.3f}" if "." in text else text
    except ValueError:
        return text
