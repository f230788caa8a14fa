"""Every architecture by name, with any stains, pooling and dropout."""

import functools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import hpa_ray.model
from hpa_ray.channels import STAINS
from hpa_ray.config.architectures import OWN, TORCHVISION
from hpa_ray.config.sections import ModelConfig
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model import Classifier, build_model
from hpa_ray.model.backbones import Backbone, make_backbone
from hpa_ray.model.heads import DropConv2d, DropLinear
from hpa_ray.model.meta import on_meta
from hpa_ray.model.pooling import AvgMax, GeM

SMALLEST = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vit_b_32",
    "wide_resnet50_2", *OWN,
)  # fmt: skip
"""One of each family."""
SAME_WIDTH = ("convnext_tiny", "maxvit_t", "mobilenet_v3_small")
WITHOUT_MEAN = ("alexnet", "mlp6", "squeezenet1_0", "vgg11", "vit_b_32")


pytestmark = pytest.mark.usefixtures("one_thread")


class ParametersOnMeta(TorchFunctionMode):
    """RegNet computes its widths with tensors, so only what makes weights may go to the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        elsewhere = {"device": "meta"} if func in (torch.empty, torch.ones, torch.zeros) else {}
        return func(*args, **{**(kwargs or {}), **elsewhere})


def side_of(name: str) -> int:
    return {"maxvit_t": 224, "inception_v3": 96, "vit_h_14": 56}.get(name, 64)


def make(name: str, *, stains: int = 4, side: int | None = None, seed: int = 0, **keys: object) -> Classifier:
    cfg = ModelConfig.model_validate({"name": name, **keys})
    return build_model(
        cfg, channels=STAINS[:stains], image_size=side or side_of(name), mean=[0.1] * stains, std=[0.2] * stains,
        num_classes=NUM_CLASSES, seed=seed,
    )  # fmt: skip


@functools.cache
def empty(name: str, stains: int = 4, **keys: object) -> Backbone:
    """Without numbers."""
    cfg = ModelConfig.model_validate({"name": name, **keys})
    with ParametersOnMeta() if name.startswith("regnet") else torch.device("meta"):
        return make_backbone(cfg, num_channels=stains, image_size=side_of(name), num_classes=NUM_CLASSES)


def logits(model: Classifier, stains: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randint(0, 256, (2, stains, side, side), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        result: Tensor = model.eval()(batch)
    return result


def test_the_names_are_those_of_torchvision() -> None:
    assert sorted(TORCHVISION) == torchvision.models.list_models(module=torchvision.models)


@pytest.mark.parametrize("name", [*TORCHVISION, *OWN])
def test_every_architecture_gives_logits(name: str) -> None:
    for stains in (1, 4) if name in SMALLEST else (3,):
        backbone = empty(name, stains)
        images = torch.empty(2, stains, side_of(name), side_of(name), device="meta")
        with torch.no_grad():
            assert backbone.module.eval()(images).shape == (2, NUM_CLASSES)
        if backbone.stem is not None:
            assert backbone.module.get_submodule(backbone.stem).in_channels == stains
        assert backbone.module.get_parameter(f"{backbone.head}.weight").shape[0] == NUM_CLASSES


def test_logits_of_squeezenet_can_be_negative() -> None:
    assert (logits(make("squeezenet1_1"), 4, 64) < 0).any()


@pytest.mark.parametrize(("name", "ratio"), [("convnext_tiny", 0.75**0.5), ("resnet18", 1.0)])
def test_new_first_filters_are_of_a_fitting_size(name: str, ratio: float) -> None:
    spread = []
    for stains in (4, 3):
        convolutions = (m for m in make(name, stains=stains).modules() if isinstance(m, nn.Conv2d))
        spread.append(next(convolutions).weight.detach().std().item())
    assert spread[0] == pytest.approx(ratio * spread[1], rel=0.02)


# pooling


@pytest.mark.parametrize("pooling", ["avgmax", "gem"])
@pytest.mark.parametrize("name", SMALLEST)
def test_each_pooling_or_what_to_give_instead(name: str, pooling: str) -> None:
    able = ("avg",) if name in WITHOUT_MEAN else ("avg", "gem") if name in SAME_WIDTH else ("avg", "avgmax", "gem")
    if pooling not in able:
        with pytest.raises(InputError, match=rf"^model\.pooling = {pooling}: {name} can not have it") as caught:
            empty(name, pooling=pooling)
        assert str(caught.value).endswith(f" - give model.pooling = {' or '.join(able)}")
        return
    pooled, plain = empty(name, pooling=pooling), empty(name)
    assert (AvgMax if pooling == "avgmax" else GeM) in [type(module) for module in pooled.module.modules()]
    keys = [key for key in pooled.module.state_dict() if not key.endswith(".exponent")]
    assert keys == list(plain.module.state_dict())
    width, before = (backbone.module.get_parameter(f"{backbone.head}.weight").shape[1] for backbone in (pooled, plain))
    assert width == (2 if pooling == "avgmax" else 1) * before
    with torch.no_grad():
        images = torch.empty(2, 4, side_of(name), side_of(name), device="meta")
        assert on_meta(pooled.module).eval()(images).shape == (2, NUM_CLASSES)


POOLED = (
    "resnet18", "densenet121", "mobilenet_v2", "mnasnet0_5", "shufflenet_v2_x0_5", "googlenet", "regnet_x_400mf",
)  # fmt: skip
"""Their features are not negative."""


@pytest.mark.parametrize("name", POOLED)
def test_pooling_contains_the_mean(name: str) -> None:
    """GeM with exponent 1, and mean and maximum with no weight on the maximum, give the logits of the mean."""
    plain = make(name, seed=1)
    expected = logits(plain, 4, 64)
    state = plain.state_dict()
    gem = make(name, pooling="gem", seed=2)
    missing, unexpected = gem.load_state_dict(state, strict=False)
    assert not unexpected
    (exponent,) = missing
    assert gem.state_dict()[exponent].item() == 3
    gem.get_parameter(exponent).data.fill_(1.0)
    assert torch.allclose(logits(gem, 4, 64), expected, rtol=1e-3, atol=1e-4)
    both = make(name, pooling="avgmax", seed=3)
    head = f"backbone.{both._head_name}.weight"
    both.load_state_dict(state | {head: torch.cat([state[head], torch.zeros_like(state[head])], 1)})
    assert torch.allclose(logits(both, 4, 64), expected, rtol=1e-3, atol=1e-4)


def test_generalised_mean_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 5, 3, 4, generator=generator) * 4 - 1
    gem = GeM()
    for exponent in (1.0, 3.0, 6.5):
        gem.exponent.data.fill_(exponent)
        expected = x.double().clamp_min(1e-6).pow(exponent).mean((2, 3)).pow(1 / exponent)
        assert torch.allclose(gem(x).flatten(1).double(), expected, rtol=1e-4)
    gem(x).sum().backward()
    assert torch.isfinite(gem.exponent.grad).all()
    assert gem(x.half()).dtype == torch.float16
    zero = torch.zeros(1, 2, 3, 3, requires_grad=True)
    gem(zero).sum().backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()
    assert torch.equal(AvgMax()(x), torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)[:, :, None, None])


# dropout


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "googlenet", "mobilenet_v3_small", "squeezenet1_1"])
def test_dropout_before_the_last_layer_is_what_was_asked_for(name: str) -> None:
    model, plain = make(name, dropout=0.5, seed=1), make(name, seed=1)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert isinstance(model.head, DropLinear | DropConv2d)
    assert torch.allclose(logits(model, 4, 64), logits(plain, 4, 64), atol=1e-5)
    own = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert own == [0.0] * len(own), "the architecture's own dropout there is replaced, not added to"
    assert not isinstance(plain.head, DropLinear | DropConv2d)

    seen: list[Tensor] = []
    nn.init.constant_(model.head.weight, 1.0)
    nn.init.zeros_(model.head.bias)  # type: ignore[arg-type]
    features = torch.ones(1, model.head.weight.shape[1], *([1, 1] if name.startswith("squeeze") else []))
    for _ in range(20):
        seen.append(model.head.train()(features).detach().flatten()[0])
    share = torch.stack(seen).mean() / features.numel()
    assert share == pytest.approx(1, abs=0.1), "kept features are scaled up"
    assert len(set(torch.stack(seen).tolist())) > 1
    assert model.head.eval()(features).flatten()[0] == features.numel()


def test_dropout_between_hidden_layers_stays() -> None:
    with torch.device("meta"):
        model = make("vgg11")
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.0]


# timm


@pytest.mark.parametrize(
    ("name", "side", "keys"),
    [
        ("resnet18", 32, {"pooling": "avgmax", "dropout": 0.2}),
        ("vit_tiny_patch16_224", 48, {}),
        ("convnext_atto", 64, {"dropout": 0.2}),
    ],
)
def test_timm_by_the_same_key(name: str, side: int, keys: dict[str, object]) -> None:
    timm = pytest.importorskip("timm")
    model = make(f"timm/{name}", side=side, **keys)
    result = logits(model, 4, side)
    assert result.shape == (2, NUM_CLASSES)
    size = {"img_size": side} if name.startswith("vit") else {}
    pool = {"global_pool": "catavgmax"} if keys.get("pooling") == "avgmax" else {}
    theirs = timm.create_model(name, in_chans=4, num_classes=NUM_CLASSES, **size, **pool)
    assert list(theirs.state_dict()) == list(model.backbone.state_dict())
    assert isinstance(model.head, DropLinear if keys.get("dropout") else nn.Linear)


def errors(name: str, side: int = 64, **keys: object) -> str:
    with pytest.raises(InputError) as caught:
        make(name, side=side, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_timm_can_not_do_is_told() -> None:
    pytest.importorskip("timm")
    assert re.search(r"no architecture of this name - did you mean timm/resnet\w+,", errors("timm/resnet180"))
    assert "give model.pooling = avg or avgmax" in errors("timm/resnet18", pooling="gem")
    assert "give model.pooling = avg" in errors("timm/vit_tiny_patch16_224", pooling="avgmax")
    assert "does not end in one layer" in errors("timm/deit_tiny_distilled_patch16_224")
    assert "takes images of 32 px or more, these have 16" in errors("timm/vgg11", 16)
    told = errors("timm/resnet18", weights="foo")
    assert told.startswith("model.weights = foo: timm/resnet18 has default, a1_in1k,")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert errors("timm/resnet18") == "model.name = timm/...: needs the extra: pip install 'hpa-ray[timm]'"


def test_timm_is_imported_only_when_it_is_asked_for() -> None:
    for source in Path(hpa_ray.model.__file__).parent.glob("*.py"):
        assert not re.search(r"^\s*(import timm|from timm)\b", source.read_text(), re.MULTILINE)
