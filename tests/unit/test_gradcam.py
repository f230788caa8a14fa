"""Grad-CAM: the heat lies on what drives the logit, for any architecture, and leaves the model as it was."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpa_ray.analysis.gradcam import Cam, grad_cam, places
from hpa_ray.channels import STAINS
from hpa_ray.config.sections import ModelConfig
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model import Classifier, build_model
from hpa_ray.model.backbones import Backbone

pytestmark = pytest.mark.usefixtures("one_thread")

SIDES = {"maxvit_t": 224, "inception_v3": 96, "vit_b_32": 96}
FAMILIES = (
    *("resnet18", "resnet50_enhanced", "alexnet", "squeezenet1_0", "densenet121", "googlenet", "inception_v3"),
    *("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "regnet_y_400mf"),
    *("convnext_tiny", "swin_t", "swin_v2_t", "vit_b_32", "maxvit_t"),
    *("timm/convnext_atto", "timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224", "timm/resnet10t"),
)


def make(name: str, **keys: object) -> Classifier:
    cfg = ModelConfig.model_validate({"name": name, **keys})
    return build_model(
        cfg, channels=STAINS, image_size=side_of(name), mean=[0.1] * 4, std=[0.2] * 4, num_classes=NUM_CLASSES, seed=0
    )


def side_of(name: str) -> int:
    return SIDES.get(name, 64)


def images(num: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 4, side, side), generator=generator, dtype=torch.uint8)


class Quadrant(nn.Module):
    """The logit of class k is what the features say in quadrant k of the map, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(4, 4)
        with torch.no_grad():
            self.conv.weight.fill_(0.1)
            self.conv.bias.zero_()
            self.head.weight.copy_(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        features = self.pool(self.conv(x)).relu().mean(1)
        logits: Tensor = self.head(nn.functional.adaptive_avg_pool2d(features, 2).flatten(1))
        return logits


def hand_made(module: nn.Module) -> Classifier:
    return Classifier(Backbone("hand", module, None, "head"), mean=[0.0] * 4, std=[1.0] * 4)


def test_the_heat_lies_in_the_only_quadrant_that_can_drive_the_logit() -> None:
    model = hand_made(Quadrant())
    cam = grad_cam(model, images(4, 16).repeat(1, 1, 1, 1), torch.arange(4))
    assert (cam.method, cam.maps_Bss.shape) == ("grad-cam", (4, 8, 8))
    everywhere = grad_cam(model, torch.full((1, 4, 16, 16), 100, dtype=torch.uint8), torch.tensor([0])).maps_Bss[0]
    assert everywhere.min() > 0, "the weight of a feature is one number, so an even image is hot everywhere"
    # what is only in its quadrant is hot only there
    for k in range(4):
        image = torch.zeros(1, 4, 16, 16, dtype=torch.uint8)
        top, left = 8 * (k // 2), 8 * (k % 2)
        image[:, :, top + 2 : top + 6, left + 2 : left + 6] = 200
        (heat,) = grad_cam(model, image, torch.tensor([k])).maps_Bss
        inside = heat[top // 2 : top // 2 + 4, left // 2 : left // 2 + 4].sum() / heat.sum()
        assert inside == pytest.approx(1)
        assert heat.max() == 1


class Strided(nn.Module):
    """As a ResNet: convolutions of 3 x 3 at stride 2 with padding 1; all weights positive, so bright is hot."""

    def __init__(self, patches: bool) -> None:
        super().__init__()
        kernel, padding = (2, 0) if patches else (3, 1)
        layers = [nn.Conv2d(4 if n == 0 else 2, 2, kernel, stride=2, padding=padding) for n in range(4)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(2, 3)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1 if parameter.ndim > 1 else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(x).mean((2, 3)))
        return logits


@pytest.mark.parametrize("patches", [False, True])
def test_the_heat_is_not_beside_what_is_hot(patches: bool) -> None:
    model, side = hand_made(Strided(patches)), 96
    (place,) = [place for place in places(model, images(1, side)) if place.module == "layers.3"]
    assert place.shift == pytest.approx(0 if patches else 7.5 / 16)
    rows, columns = np.random.default_rng(0).integers(24, 72, (2, 40))
    bright = torch.zeros(40, 4, side, side, dtype=torch.uint8)
    for n, (row, column) in enumerate(zip(rows, columns, strict=True)):
        bright[n, :, row - 4 : row + 4, column - 4 : column + 4] = 255
    maps = grad_cam(model, bright, torch.zeros(40, dtype=torch.int64)).maps_Bss
    centres = (np.arange(maps.shape[1]) + 0.5) * side / maps.shape[1]
    total = maps.sum((1, 2))
    found = (maps.sum(2) @ centres / total, maps.sum(1) @ centres / total)
    for wanted, centre in zip((rows, columns), found, strict=True):
        assert abs((centre - wanted).mean()) < 1.5, "px on average; half a cell would be 7.5"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_map_and_stays_as_it_was(name: str) -> None:
    model = make(name)
    torch.manual_seed(0)
    nn.init.normal_(model.head.weight)  # some start with zeros there
    model.train()
    model.freeze(True)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    asking = [parameter.requires_grad for parameter in model.parameters()]
    cam = grad_cam(model, images(2, side_of(name)), torch.tensor([0, 27]))
    check(cam)
    assert cam.method == "grad-cam"
    assert cam.maps_Bss.shape[1] > 1
    assert cam.maps_Bss.max() == 1, "with two images and random weights, something speaks for a class"
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == asking
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def check(cam: Cam) -> None:
    assert cam.maps_Bss.dtype == np.float32
    assert cam.maps_Bss.shape[1] == cam.maps_Bss.shape[2]
    assert np.isfinite(cam.maps_Bss).all()
    assert cam.maps_Bss.min() >= 0
    assert all(image.max() in (0, 1) for image in cam.maps_Bss)


def test_the_tokens_of_a_transformer_are_put_where_their_patches_are() -> None:
    model = make("timm/vit_tiny_patch16_224")
    latest = places(model, images(1, 64))[-1]
    assert (latest.layout, latest.side) == ("BNF", 4)


def test_a_swin_has_its_maps_features_last() -> None:
    assert "BssF" in {place.layout for place in places(make("swin_t"), images(1, 64))}


def test_a_network_without_maps_gets_the_slope_of_its_input() -> None:
    model = make("mlp6")
    cam = grad_cam(model, images(2, 64), torch.tensor([0, 1]))
    check(cam)
    assert (cam.method, cam.maps_Bss.shape) == ("input gradient", (2, 16, 16))
    with torch.no_grad():  # only the pixels of the last cell of the grid count
        weight = model.backbone.get_submodule("fc1").weight
        kept = torch.zeros(4, 64, 64)
        kept[:, 60:, 60:] = 1
        weight.mul_(kept.flatten())
    (heat,) = grad_cam(model, images(1, 64), torch.tensor([0])).maps_Bss
    assert heat[15, 15] == 1
    assert np.count_nonzero(heat) == 1


def test_batches_change_nothing() -> None:
    model, given, classes = make("resnet18"), images(5, 64), torch.arange(5)
    together = grad_cam(model, given, classes).maps_Bss
    apart = grad_cam(model, given, classes, batch_size=2).maps_Bss
    np.testing.assert_allclose(together, apart, atol=1e-4)
    assert len(grad_cam(model, given[:0], classes[:0]).maps_Bss) == 0
