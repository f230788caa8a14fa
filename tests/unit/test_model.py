"""The classifier: weights that depend on the seed alone, normalisation, what trains while frozen."""

import copy
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hpa_ray.channels import STAINS
from hpa_ray.config.sections import ModelConfig
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model import Classifier, build_model
from hpa_ray.model.own import IdentityBlock

# B images, C stains, S side in px, K classes


def make(
    name: str = "resnet18", *, stains: int | Sequence[str] = 4, side: int = 32, seed: int = 0, **keys: object
) -> Classifier:
    channels = STAINS[:stains] if isinstance(stains, int) else stains
    cfg = ModelConfig.model_validate({"name": name, **keys})
    mean, std = [0.1] * len(channels), [0.2] * len(channels)
    return build_model(cfg, channels=channels, image_size=side, mean=mean, std=std, num_classes=NUM_CLASSES, seed=seed)


def images(num: int = 2, stains: int = 4, side: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, stains, side, side), generator=generator, dtype=torch.uint8)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("num_stains", "side"), [(1, 32), (3, 32), (4, 45)])
def test_any_number_of_stains_and_any_size_go_in(num_stains: int, side: int) -> None:
    model = make(stains=num_stains, side=side).eval()
    with torch.no_grad():
        logits_BK = model(images(2, num_stains, side))
    assert logits_BK.shape == (2, NUM_CLASSES)
    assert logits_BK.dtype == torch.float32
    assert torch.isfinite(logits_BK).all()


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mlp6", "timm/convnext_atto"])
def test_the_weights_depend_on_the_seed_alone(name: str) -> None:
    first = make(name, seed=3).state_dict()
    torch.rand(7)
    again, other = make(name, seed=3).state_dict(), make(name, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    matrices = [key for key in first if first[key].dim() > 1]
    assert not any(torch.equal(first[key], other[key]) for key in (matrices[0], matrices[-1]))


def test_a_resnet_starts_as_it_did_before_there_were_other_architectures() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        old = torchvision.models.resnet18(weights=None, num_classes=NUM_CLASSES, zero_init_residual=True)
        stem = torch.nn.Conv2d(4, 64, 7, stride=2, padding=3, bias=False)
        torch.nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        old.conv1 = stem
    ours = make(seed=5).state_dict()
    theirs = {f"backbone.{key}": value for key, value in old.state_dict().items()}
    assert list(ours) == ["mean_C", "std_C", *theirs]
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.mark.parametrize("num_stains", [3, 4])
def test_building_a_model_leaves_global_randomness_as_it_was(num_stains: int) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index, union-attr]
    on_gpus = [torch.cuda.get_rng_state(k) for k in range(torch.cuda.device_count())]
    make(stains=num_stains, seed=5, pooling="gem", dropout=0.5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    assert before[2] == random.getstate()
    assert all(torch.equal(state, torch.cuda.get_rng_state(k)) for k, state in enumerate(on_gpus))


ORACLES = (
    "resnet18", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "efficientnet_b0",
    "googlenet", "inception_v3", "shufflenet_v2_x0_5", "vit_b_32", "swin_t", "convnext_tiny", "regnet_y_400mf",
)  # fmt: skip


@pytest.mark.parametrize("name", ORACLES)
def test_three_stains_give_the_logits_of_torchvision_s_own_network(name: str) -> None:
    side = 96 if name == "inception_v3" else 64
    options: dict[str, object] = {"image_size": side} if name == "vit_b_32" else {}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = torchvision.models.get_model(name, weights=None, num_classes=NUM_CLASSES, **options).eval()
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    ours = make(name, stains=3, side=side).eval()
    ours.backbone.load_state_dict(theirs.state_dict())
    batch = images(2, 3, side)
    with torch.no_grad():
        expected = theirs((batch / 255 - 0.1) / 0.2)
        assert torch.allclose(ours(batch), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_batch_gives_what_its_images_give_alone() -> None:
    model = make().eval()
    batch = images(3)
    with torch.no_grad():
        alone = torch.cat([model(batch[k : k + 1]) for k in range(3)])
        assert torch.allclose(model(batch), alone, atol=1e-5)


def test_a_model_without_numbers_of_versions_in_its_state_can_be_loaded() -> None:
    """As from a .safetensors file; MNASNet wants them."""
    for name in ("resnet18", "mnasnet0_5", "densenet121"):
        state = {key: value.clone() for key, value in make(name, seed=1).state_dict().items()}
        model = make(name, seed=2)
        model.load_state_dict(state)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


# normalisation


@given(mean=st.lists(st.floats(0, 1), min_size=2, max_size=2), std=st.lists(st.floats(0.01, 1), min_size=2, max_size=2))
@settings(deadline=None, max_examples=5)
def test_each_stain_is_normalised_by_its_own_mean_and_std(mean: Sequence[float], std: Sequence[float]) -> None:
    cfg = ModelConfig(name="resnet18")
    model = build_model(
        cfg, channels=("green", "blue"), image_size=16, mean=mean, std=std, num_classes=NUM_CLASSES, seed=0
    )
    batch = images(2, 2, 16)
    expected = (batch.double() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    for given_batch in (batch, batch.float()):
        seen: list[Tensor] = []
        first = model.backbone.get_submodule("conv1")
        handle = first.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))  # type: ignore[misc]
        with torch.no_grad():
            model.eval()(given_batch)
        handle.remove()
        assert torch.allclose(seen[0].double(), expected, rtol=1e-3, atol=1e-3)


def test_each_image_can_be_normalised_by_itself() -> None:
    model = make(normalize="image")
    batch = images(3, side=16)
    batch[:, 1] //= 9
    result = model.normalized(batch)
    assert result.mean((2, 3)).abs().max() < 1e-5
    assert torch.allclose(result.std((2, 3), correction=0), torch.ones(3, 4), atol=1e-4)
    brighter = model.normalized(batch[:, 1:2] * 7)
    assert torch.allclose(brighter, result[:, 1:2], atol=1e-4)


@pytest.mark.parametrize("normalize", ["dataset", "source", "image"])
@pytest.mark.parametrize("learned_gamma", [False, True])
def test_a_black_stain_does_no_harm(normalize: str, learned_gamma: bool) -> None:
    cfg = ModelConfig.model_validate({"name": "resnet18", "normalize": normalize, "learned_gamma": learned_gamma})
    model = build_model(
        cfg, channels=("red", "green"), image_size=32, mean=[0.0, 0.1], std=[0.0, 0.2], num_classes=3, seed=0
    )
    batch = images(2, 2)
    batch[:, 0] = 0
    assert torch.equal(model.normalized(batch)[:, 0], torch.zeros(2, 32, 32))
    model(batch).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_gamma_is_learned_from_one() -> None:
    model, plain = make(learned_gamma=True), make()
    batch = images()
    assert torch.equal(model.normalized(batch), plain.normalized(batch))
    assert model.log_gamma_C is not None
    assert "log_gamma_C" in model.state_dict()
    with torch.no_grad():
        model.log_gamma_C.copy_(torch.tensor([0.5, 2.0, 1.0, 3.0]).log())
    x = model.normalized(batch) * 0.2 + 0.1
    for stain, gamma in enumerate((0.5, 2.0, 1.0, 3.0)):
        assert torch.allclose(x[:, stain], (batch[:, stain] / 255) ** gamma, atol=1e-5)
    floats = (batch.float() * (batch > 40)).requires_grad_()
    model(floats).sum().backward()
    assert floats.grad is not None
    assert torch.isfinite(floats.grad).all()
    assert model.log_gamma_C.grad is not None
    assert (model.log_gamma_C.grad != 0).all()


# frozen


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "squeezenet1_1"])
def test_frozen_only_the_last_layer_trains(name: str) -> None:
    model = make(name, dropout=0.3, learned_gamma=True).train()
    model.freeze(True)
    assert model.training
    assert model.head.training
    head = {id(p) for p in model.head.parameters()}
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(images()).square().sum().backward()
    assert all((p.grad is not None) == (id(p) in head) for p in model.parameters())
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert changed <= {f"backbone.{model._head_name}.{kind}" for kind in ("weight", "bias")}
    model.eval()
    assert not model.head.training
    model.freeze(False)
    assert not model.training
    model.train()
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_the_head_is_the_last_layer() -> None:
    for name, place in (("resnet18", "fc"), ("mobilenet_v2", "classifier.1"), ("mlp6", "fc6")):
        model = make(name)
        assert model.head is model.backbone.get_submodule(place)
        assert isinstance(model.head, torch.nn.Linear)
        assert model.head.out_features == NUM_CLASSES
    assert isinstance(make("squeezenet1_1").head, torch.nn.Conv2d)


# what a forward may not do


def test_the_whole_forward_is_one_graph() -> None:
    """No branch on data: torch.compile takes it in one piece."""
    model = make("resnet18", learned_gamma=True, normalize="image", pooling="gem", dropout=0.2).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(images()), model(images()), atol=1e-5)


def test_memory_layout_and_autocast_change_little() -> None:
    model = make("resnet18", pooling="gem", learned_gamma=True).eval()
    batch = images()
    with torch.no_grad():
        expected = model(batch)
        other = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert torch.allclose(other(batch.to(memory_format=torch.channels_last)), expected, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(batch)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), expected, atol=0.05 * float(expected.abs().max()))


# sizes


def test_a_size_is_checked_at_once() -> None:
    model = make("resnet18")
    model.check_image_size(8)
    inception = make("inception_v3", side=75)
    with pytest.raises(
        InputError, match=r"^model\.name = inception_v3: takes images of 75 px or more, these have 74 - "
    ):
        inception.check_image_size(74)
    with pytest.raises(InputError, match=r"^model\.name = mlp6: can not take images of 16 px \(.*\) - .*$"):
        make("mlp6").check_image_size(16)
    assert all(p.device.type == "cpu" for p in inception.parameters())


@pytest.mark.parametrize(
    ("name", "side", "told"),
    [
        ("vgg11", 31, "32 px or more, these have 31"),
        ("alexnet", 8, "63 px or more"),
        ("vit_b_16", 100, "data.image_size = 96 or 112"),
        ("vit_b_16", 8, "data.image_size = 16,"),
        ("maxvit_t", 256, "multiple of 224 px, these have 256"),
        ("timm/maxvit_rmlp_pico_rw_256", 100, "can not take images of 100 px"),
    ],
)
def test_a_size_that_does_not_fit_is_told_in_one_line(name: str, side: int, told: str) -> None:
    with torch.device("meta"), pytest.raises(InputError) as caught:
        make(name, side=side)
    assert told in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


# the enhanced ResNet50 and the six layers


def test_twelve_blocks_have_one_more_convolution() -> None:
    with torch.device("meta"):
        model, plain = make("resnet50_enhanced"), make("resnet50")
    blocks = [module for module in model.modules() if isinstance(module, IdentityBlock)]
    assert len(blocks) == 16 - 4
    extra = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
    widths = [64] * 2 + [128] * 3 + [256] * 5 + [512] * 2
    assert extra == sum(9 * width**2 + 2 * width for width in widths)
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert {key.split(".")[3] for key in added} == {"conv_extra", "bn_extra"}
    assert plain.state_dict().keys() < model.state_dict().keys()


def test_six_layers_take_any_stains_and_sides() -> None:
    for stains, side in ((1, 8), (3, 17), (4, 32)):
        model = make("mlp6", stains=stains, side=side)
        assert model(images(2, stains, side)).shape == (2, NUM_CLASSES)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert [layer.out_features for layer in linear] == [512, 512, 256, 256, 128, NUM_CLASSES]
    assert model.head is linear[-1]


def test_six_layers_are_as_large_as_they_say() -> None:
    with torch.device("meta"):
        model = make("mlp6", stains=3, side=512)
    assert f"{sum(p.numel() for p in model.parameters()):,}" in str(type(model.backbone).__doc__)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "vit_b_32", "mlp6", "densenet121"])
def test_the_embedding_is_what_the_last_layer_sees(name: str) -> None:
    model = make(name, dropout=0.5).eval()
    shown = images(3)
    with torch.inference_mode():
        logits, embedding = model.with_embedding(shown)
        assert torch.equal(logits, model(shown))
        assert embedding.shape == (3, model.head.weight.shape[1])
        assert embedding.dtype == torch.float32
        again = embedding @ model.head.weight.flatten(1).T + model.head.bias
    assert torch.allclose(again, logits, atol=1e-4)
