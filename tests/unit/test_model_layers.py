"""The table of layers and its figure."""

import pytest
import torch

from hpa_ray.channels import STAINS
from hpa_ray.config.sections import ModelConfig
from hpa_ray.figures import figure_png, layers_figure
from hpa_ray.model import Classifier, Layer, build_model, layer_table
from hpa_ray.model.layers import MOST_ROWS


def empty(name: str, side: int = 64, **keys: object) -> Classifier:
    with torch.device("meta"):
        return build_model(
            ModelConfig.model_validate({"name": name, **keys}), channels=STAINS, image_size=side, mean=[0.1] * 4,
            std=[0.2] * 4, num_classes=28, seed=0,
        )  # fmt: skip


def table(name: str, side: int = 64, **keys: object) -> list[Layer]:
    return layer_table(empty(name, side, **keys), channels=4, image_size=side)


def test_a_resnet_has_a_row_per_block() -> None:
    rows = table("resnet50", 256)
    assert [row.name for row in rows] == [
        "conv1", "bn1", "relu", "maxpool",
        *(f"layer{stage}.{block}" for stage, blocks in enumerate((3, 4, 6, 3), 1) for block in range(blocks)),
        "avgpool", "fc",
    ]  # fmt: skip
    assert rows[0] == Layer("conv1", "Conv2d 7x7, stride 2", (64, 128, 128), 64 * 4 * 49)
    assert rows[3] == Layer("maxpool", "MaxPool2d 3x3, stride 2", (64, 64, 64), 0)
    assert rows[-3].output_shape == (2048, 8, 8)
    assert rows[-1] == Layer("fc", "Linear", (28,), 2048 * 28 + 28)
    enhanced = table("resnet50_enhanced", 256)
    assert [row.name for row in enhanced] == [row.name for row in rows]
    assert [row.kind for row in enhanced[4:7]] == ["Bottleneck", "IdentityBlock", "IdentityBlock"]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet152", {"learned_gamma": True}), ("resnet18", {"pooling": "gem", "dropout": 0.1}), ("mlp6", {}),
        ("densenet121", {"pooling": "avgmax"}), ("vit_b_32", {}), ("swin_v2_t", {}), ("efficientnet_b7", {}),
        ("vgg19_bn", {}), ("squeezenet1_0", {}), ("googlenet", {}), ("shufflenet_v2_x0_5", {}),
        ("timm/convnext_atto", {}), ("timm/vit_tiny_patch16_224", {}),
    ],
)  # fmt: skip
def test_parameters_add_up(name: str, keys: dict[str, object]) -> None:
    model = empty(name, **keys)
    rows = layer_table(model, channels=4, image_size=64)
    assert sum(row.num_parameters for row in rows) == sum(p.numel() for p in model.parameters())
    assert 5 < len(rows) <= MOST_ROWS
    assert rows[-1].output_shape[0] == 28
    assert len({row.name for row in rows}) == len(rows)


def test_the_model_is_left_as_it_was() -> None:
    cfg = ModelConfig(name="squeezenet1_1")
    model = build_model(cfg, channels=("green",), image_size=32, mean=[0.1], std=[0.2], num_classes=3, seed=0).train()
    layer_table(model, channels=1, image_size=96)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_the_figure_says_what_the_table_says() -> None:
    rows = [("conv1", "Conv2d 3x3", (8, 16, 16), 60), ("stage.0", "Block", (8, 8, 8), 40), ("relu", "ReLU", (8,), 0),
            ("n" * 90, "Linear", (28,), 1_000_000)]  # fmt: skip
    figure = layers_figure(rows, title="a network", input_shape=(4, 32, 32))
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert {"a network", "input", "4 x 32 x 32", "conv1", "Conv2d 3x3", "8 x 16 x 16", "60", "stage.0", "40"} <= set(
        texts
    )
    assert {"1,000,000", "total", "1,000,100", "100%", "below 0.01%"} <= set(texts)
    assert max(len(text) for text in texts) <= 40
    widths = [bar.get_width() for bar in axes.containers[0]]
    assert [width / widths[3] for width in widths] == pytest.approx([6e-5, 4e-5, 0, 1])
    assert figure_png(figure, dpi=40).startswith(b"\x89PNG")
    figure_png(layers_figure([]), dpi=40)
