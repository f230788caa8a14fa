"""`analyze`: what a trained model gets right and wrong on one part of the data."""

from typing import Any

from hpa_ray.analysis.run import analyze as analyze_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli.evaluate_verb import folder_of, open_part, trained_with
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import resolve
from hpa_ray.config import InferenceConfig, load_config
from hpa_ray.errors import InputError
from hpa_ray.labels import CLASS_NAMES
from hpa_ray.predict import open_ensemble
from hpa_ray.progress import console
from hpa_ray.storage import absolute

SHOWN = 8
"""Confused pairs, and suspected label errors, that are printed."""


def analyze(invocation: Invocation) -> dict[str, Any]:
    named = load_config(invocation.words, recipe=invocation.recipe, file=invocation.file).analyze
    if named.run is None:
        raise InputError("analyze needs analyze.run=RUN_FOLDER (or a model.safetensors)")
    run, part = absolute(named.run), named.part
    ensemble = open_ensemble([run], InferenceConfig())
    if len(ensemble.members) > 1:
        raise InputError(f"analyze.run = {run}: stands for {len(ensemble.members)} models - name one of its folds")
    shipped = ensemble.members[0].shipped
    config = resolve(invocation, base=trained_with(run, shipped.card.config))
    data, rows = open_part(config, ensemble, "analyze.part", part)
    folder = RunFolder(config.analyze.output or folder_of(run))
    with console.progress("analyze", min(len(rows), config.analyze.max_images)) as show:
        found = analyze_model(config, shipped, data, rows, part=part, folder=folder, on_progress=show)
    for note in found["notes"]:
        console.say(f"note: {note}")
    console.say(f"{part} part, {found['num_images']:,} images")
    for pair in found["confusions"][:SHOWN]:
        missed, predicted = CLASS_NAMES[pair["missed"]], CLASS_NAMES[pair["predicted"]]
        console.say(
            f"  missed {missed}, predicted {predicted}: {pair['images']} images, {pair['lift']:.1f} times as often "
            "as on other images"
        )
    for error in found["label_errors"][:SHOWN]:
        verb = "has, perhaps wrongly," if error["given"] else "lacks, perhaps wrongly,"
        console.say(f"  {error['image_id']} {verb} {CLASS_NAMES[error['class']]} (score {error['score']:.2f})")
    console.say(
        f"written: {folder.uri}/analysis_{part}.json, gallery_{part}.parquet, embeddings_{part}.parquet, figures"
    )
    return {
        "run": folder.uri,
        "part": part,
        "num_images": found["num_images"],
        "num_confusions": len(found["confusions"]),
        "num_label_errors": len(found["label_errors"]),
        "retrieval_precision": found["retrieval"]["mean"],
        "map": found["map"]["method"],
    }
