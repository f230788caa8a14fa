"""`export`: from a run folder to files that others can use, each checked against the trained model."""

import os
from typing import Any

from hpa_ray.checkpoint.model_file import MODEL_FILE, load_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.cli.main import Invocation
from hpa_ray.cli.setup import resolve
from hpa_ray.config import Config
from hpa_ray.errors import InputError
from hpa_ray.export import ONNX_FILE, TOLERANCE, largest_difference, missing_packages, model_card, onnx_bytes
from hpa_ray.export.card import read_classes
from hpa_ray.progress import console
from hpa_ray.storage import absolute, exists, join, read_bytes, write_bytes


def export(invocation: Invocation) -> dict[str, Any]:
    config = resolve(invocation, base=Config())
    run, output = config.export.run, config.export.output
    if run is None or output is None:
        raise InputError("export needs export.run=RUN_FOLDER and export.output=FOLDER")
    own = os.path.dirname(run) if run.endswith(".safetensors") else run
    if absolute(output) == absolute(own):
        raise InputError(f"export.output = {output}: is the run folder itself - give another folder")
    missing = missing_packages()
    if config.export.onnx and missing:
        raise InputError(
            f"export.onnx = true needs {', '.join(missing)} - install the extra: pip install 'hpa-ray[onnx]'"
        )
    shipped = load_model(run)
    differences = {}
    copy = join(output, MODEL_FILE)
    write_bytes(copy, read_bytes(run if run.endswith(".safetensors") else join(run, MODEL_FILE)))
    differences[MODEL_FILE] = _checked(MODEL_FILE, largest_difference(shipped, copy))
    if config.export.onnx is False:
        console.say("export.onnx = false: no model.onnx")
    elif missing:
        console.say(f"no {ONNX_FILE}: {', '.join(missing)} not installed (pip install 'hpa-ray[onnx]')")
    else:
        content = onnx_bytes(shipped)
        differences[ONNX_FILE] = _checked(ONNX_FILE, largest_difference(shipped, ONNX_FILE, content))
        write_bytes(join(output, ONNX_FILE), content)
    folder = RunFolder(own)
    summary = folder.read_json("summary.json") if exists(folder.path("summary.json")) else {}
    tested = folder.path("per_class_test.csv")
    table = tested if "test_macro_f1" in summary and exists(tested) else folder.path("per_class.csv")
    classes = read_classes(read_bytes(table).decode()) if exists(table) else []
    text = model_card(shipped.card, summary, classes, differences=differences)
    write_bytes(join(output, "README.md"), text.encode())
    for name, value in differences.items():
        console.say(f"{name}: largest difference of a logit on 8 random images {value:.1e}")
    console.say(f"written: {output}/README.md, {', '.join(f'{output}/{name}' for name in differences)}")
    return {"output": output, "differences": differences}


def _checked(name: str, difference: float) -> float:
    if not difference <= TOLERANCE:
        raise InputError(
            f"{name}: its logits differ from the model's by {difference:.2g}, more than {TOLERANCE:g} - "
            "it is not written; export with export.onnx=false"
        )
    return difference
