"""Every recipe can be read, says how it is started, and describes a model that can be built."""

import re

import pytest

from hpa_ray.config import Config, load_config, recipe_names
from hpa_ray.config.sections import RECIPES
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.manifest import parse_parts
from hpa_ray.manifest.split import part_sizes
from hpa_ray.model import build_model


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_and_how_it_is_started(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    command = "hpa-ray train " if name == "embedded" else f"hpa-ray train --recipe {name}"
    assert command in text
    assert load_config([], recipe=name) != Config()


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "report2_mlp"])  # 1.6 GB
def test_the_model_of_a_recipe_can_be_built(name: str) -> None:
    config = load_config(["model.weights="], recipe=name)
    stains = config.data.channels
    zeros = [0.0] * len(stains)
    model = build_model(
        config.model,
        channels=stains,
        image_size=config.data.image_size,
        mean=zeros,
        std=zeros,
        num_classes=NUM_CLASSES,
        seed=0,
    )
    for size in config.train.sizes:
        model.check_image_size(size)


def test_the_reports_systems_differ_as_the_reports_say() -> None:
    configs = [load_config([], recipe=name) for name in recipe_names() if re.match(r"report\d_", name)]
    facts = [(config.model.name, config.data.image_size, len(config.data.channels)) for config in configs]
    assert facts == [
        ("resnet50", 128, 1),
        ("resnet50_enhanced", 256, 1),
        ("resnet50_enhanced", 256, 3),
        ("resnet50_enhanced", 256, 4),
        ("mlp6", 512, 3),
    ]
    for config in configs:
        assert (config.optim.name, config.loss.name) == ("adam", "bce")
        assert part_sizes(parse_parts(config.split.parts), 31_072) == [24_000, 3_000, 4_072]
