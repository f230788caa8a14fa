"""Exported files say what the model says, and the examples of the card run."""

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from hpa_ray.checkpoint.model_file import ModelCard, ShippedModel, save_model
from hpa_ray.cli.main import main
from hpa_ray.config import Config, ModelConfig, dump_config
from hpa_ray.export import TOLERANCE, largest_difference, onnx_bytes
from hpa_ray.labels import CLASS_NAMES, NUM_CLASSES
from hpa_ray.model import build_model

pytestmark = pytest.mark.usefixtures("one_thread")

STAINS = ("red", "green", "blue", "yellow")


def shipped(name: str, side: int) -> ShippedModel:
    cfg = ModelConfig(name=name)
    facts = {"channels": STAINS, "image_size": side, "mean": [0.1] * 4, "std": [0.2] * 4}
    model = build_model(cfg, num_classes=NUM_CLASSES, seed=0, **facts)  # type: ignore[arg-type]
    card = ModelCard(
        channels=STAINS,
        image_size=side,
        model=cfg,
        run="born",
        epoch=3,
        thresholds=tuple(np.linspace(0.1, 0.9, NUM_CLASSES).tolist()),
        config=dump_config(Config()),
    )
    return ShippedModel(model.eval(), card)


@pytest.mark.parametrize(("name", "side"), [("mlp6", 16), ("resnet18", 32), ("squeezenet1_1", 64)])
def test_onnx_says_what_the_model_says_of_any_number_of_images(name: str, side: int) -> None:
    one = shipped(name, side)
    content = onnx_bytes(one)
    assert largest_difference(one, "model.onnx", content) < TOLERANCE
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for num_images in (1, 5):
        images = np.random.default_rng(num_images).integers(0, 256, (num_images, 4, side, side), np.uint8)
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
        with torch.inference_mode():
            expected = one.model(torch.from_numpy(images)).numpy()
        assert np.abs(logits - expected).max() < TOLERANCE
        assert np.allclose(probabilities, 1 / (1 + np.exp(-logits.astype(np.float64))), atol=1e-6)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(CLASS_NAMES)
    assert json.loads(facts["thresholds"]) == list(one.card.thresholds)
    assert (facts["vocabulary"], facts["stain_order"]) == (one.card.vocabulary, one.card.stain_order)


def test_another_model_is_told_apart(tmp_path: Path) -> None:
    one, other = shipped("mlp6", 16), shipped("mlp6", 16)
    with torch.no_grad():
        other.model.head.weight.add_(0.01)
    save_model(str(tmp_path / "model.safetensors"), other.model, other.card)
    assert largest_difference(one, str(tmp_path)) > TOLERANCE
    assert largest_difference(other, str(tmp_path)) == 0


def test_the_card_of_a_run_and_its_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = tmp_path / "run", tmp_path / "out"
    one = shipped("mlp6", 16)
    save_model(str(run / "model.safetensors"), one.model, one.card)
    scores = {"macro_f1_tuned": 0.4321, "intervals": {"macro_f1_tuned": [0.4, 0.5]}, "num_images": 1234}
    (run / "summary.json").write_text(json.dumps(scores))
    (run / "per_class.csv").write_text("class,name,support,f1\n0,Nucleoplasm,12,0.256789\n")
    assert main(["export", f"export.run={run}", f"export.output={output}"]) == 0
    assert "model.onnx: largest difference" in capsys.readouterr().out
    text = (output / "README.md").read_text()
    for told in (
        "| macro F1 at tuned thresholds | 0.432 (0.400 to 0.500) |",
        "validated on 1,234 images".capitalize(),
        "| 0 | Nucleoplasm | 12 | 0.257 |",
        "| `optim.name` | adamw |",
        "Not for diagnosis",
        "| 27 | Rods & rings | 0.9000 |",
    ):
        assert told in text
    assert str(tmp_path) not in text
    monkeypatch.chdir(output)
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(example, "README.md", "exec"), {})
        assert said.getvalue().strip()


def test_without_onnx_and_into_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = shipped("mlp6", 16)
    save_model(str(tmp_path / "run" / "model.safetensors"), one.model, one.card)
    words = ["export", f"export.run={tmp_path}/run/model.safetensors"]
    assert main([*words, f"export.output={tmp_path}/out", "export.onnx=false"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.safetensors"]
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "run/model.safetensors").read_bytes()
    capsys.readouterr()
    assert main([*words, f"export.output={tmp_path}/run"]) == 2
    assert "is the run folder itself" in capsys.readouterr().err
    assert main(words) == 2
    assert "export needs export.run=RUN_FOLDER and export.output=FOLDER" in capsys.readouterr().err
