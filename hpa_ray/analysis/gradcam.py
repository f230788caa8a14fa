"""Where in an image a model finds a class. Before: model/classifier. After: gallery.

Grad-CAM: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", 2017
(arXiv 1610.02391): the last map of features, each feature weighted by the mean over the map of the logit's slope in it.

B images, C stains, S side of an image in px, s side of the map, F features, N tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpa_ray.model import Classifier
from hpa_ray.model.meta import on_meta

Method = Literal["grad-cam", "input gradient"]
Layout = Literal["BFss", "BssF", "BNF"]
LEAST_SIDE = 4
"""Of a map, where the network has one: the last of a ResNet has 2 x 2 places for an image of 64 px."""
LEAST_SHIFT = 0.05
"""Of the places of a map, in cells, below which it stays as it is."""
INPUT_GRID = 16
"""Side of the map of a model that has none of its own."""
MOST_PREFIX_TOKENS = 8
"""Class token, distillation token, registers: what stands before the tokens of the patches."""
NO_MAPS = (nn.Linear, nn.Dropout, nn.Identity)
"""Projections inside a transformer's block, and what hands on the output of another layer."""


class Cam(NamedTuple):
    maps_Bss: np.ndarray  # float32, 0 to 1; largest 1, or all 0 where nothing speaks for the class
    method: Method


class Place(NamedTuple):
    """A layer of the backbone whose output has a place for every part of the image."""

    module: str
    layout: Layout
    side: int  # s
    shift: float = 0.0
    """How much further up and left than the cells of an even grid its places lie, in cells."""


def grad_cam(
    model: Classifier, images_BCSS: Tensor, classes_B: Tensor, *, batch_size: int = 16, at: Place | None = None
) -> Cam:
    """The map for one class of each image; images as the model takes them, on its device, uint8 or float32.

    at: the layer, as find_place gives it; unset, it is looked for. A model without one (mlp6) gets |intensity * slope
    of the logit| of its normalised input, summed over stains and in each cell of a grid: method `input gradient`. Maps
    are 0 where all that is there speaks against the class. The model's mode, parameters and gradients stay as they are.
    """
    if not len(images_BCSS):
        return Cam(np.zeros((0, 1, 1), np.float32), "grad-cam")
    place = at or find_place(model, images_BCSS, classes_B)
    with _in_eval_mode(model):
        steps = list(zip(torch.split(images_BCSS, batch_size), torch.split(classes_B, batch_size), strict=True))
        if place is None:
            maps = [_input_gradient(model, images, classes) for images, classes in steps]
            return Cam(torch.cat(maps).cpu().numpy(), "input gradient")
        maps = [_evenly(_cam(*_map_and_slope(model, *step, place)), place.shift) for step in steps]
    return Cam(torch.cat(maps).cpu().numpy(), "grad-cam")


def find_place(model: Classifier, images_BCSS: Tensor, classes_B: Tensor) -> Place | None:
    """The last layer before the head on which the logit depends and that has LEAST_SIDE places on a side.

    Of a network that has none, the last with more than one place; None where there is none at all. For most networks of
    usual image sizes that is the last map of all, for a vision transformer what goes into its last attention, as
    after it only the class token counts. The first of the images is tried.
    """
    with _in_eval_mode(model):
        latest = places(model, images_BCSS)[::-1]
        latest = [place for small in (False, True) for place in latest if (place.side < LEAST_SIDE) is small]
        return next((place for place in latest if _counts(model, images_BCSS[:1], classes_B[:1], place)), None)


def places(model: Classifier, images_BCSS: Tensor) -> list[Place]:
    """The layers before the head whose output has a place for every part of the image, in the order they end.

    Nothing is computed: shapes alone go through a copy.
    """
    copy = on_meta(model).eval()
    num_images, found, over = 2, [], [False]
    grids = {images_BCSS.shape[-1]: Grid(1.0, 0.0)}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if over[0] or not isinstance(output, Tensor) or output.shape[0] != num_images:
                return
            if not isinstance(module, NO_MAPS) and (place := _place(name, tuple(output.shape), set(grids))):
                if place.side not in grids:
                    grids[place.side] = _grid_after(module, place, inputs[0], grids)
                found.append(place._replace(shift=grids[place.side].shift))

        return hook

    for name, module in copy.backbone.named_modules():
        module.register_forward_hook(note(name))
    copy.head.register_forward_pre_hook(lambda layer, inputs: over.__setitem__(0, True))
    with torch.no_grad():
        copy(torch.empty(num_images, *images_BCSS.shape[1:], dtype=torch.uint8, device="meta"))
    return found


class Grid(NamedTuple):
    """Where the places of a map lie in the image, along each axis."""

    step: float  # px from one to the next
    first: float  # of the centre of the first, in px, 0 being the centre of the first pixel

    @property
    def shift(self) -> float:
        return ((self.step - 1) / 2 - self.first) / self.step


def _grid_after(module: nn.Module, place: Place, before: Any, grids: dict[int, Grid]) -> Grid:
    """Of the first map of its side.

    The places of a convolution or pooling follow from its kernel, stride and padding: a ResNet's 3 x 3 at stride 2 puts
    the first on the first pixel. What else changes the side is taken to merge cells evenly, as the patches of a
    transformer.
    """
    known = isinstance(before, Tensor) and before.ndim == 4 and before.shape[-1] in grids
    if known and place.layout == "BFss" and isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride, padding = _one(module.kernel_size), _one(module.stride), _one(module.padding)
        if kernel is not None and stride is not None and padding is not None:
            grid = grids[before.shape[-1]]
            return Grid(grid.step * stride, grid.first + grid.step * ((kernel - 1) / 2 - padding))
    side, grid = min(grids.items(), key=lambda item: item[0])  # the smallest so far is the last
    ratio = side / place.side
    return Grid(grid.step * ratio, grid.first + grid.step * (ratio - 1) / 2)


def _one(value: Any) -> int | None:
    """A setting of both axes; None where it is a word, or they differ."""
    values = {value} if isinstance(value, int) else set(value)
    return values.pop() if len(values) == 1 and not isinstance(value, str) else None


def _place(name: str, shape: tuple[int, ...], sides: set[int]) -> Place | None:
    """What the shape of an output says; sides: those of the maps before it."""
    if len(shape) == 4:
        if shape[2] == shape[3] > 1:
            return Place(name, "BFss", shape[2])
        if shape[1] == shape[2] > 1:  # as Swin has them
            return Place(name, "BssF", shape[1])
    if len(shape) == 3:
        known = [side for side in sides if side > 1 and 0 <= shape[1] - side**2 <= MOST_PREFIX_TOKENS]
        side = max(known, default=isqrt(shape[1]))
        if side > 1 and shape[1] - side**2 <= MOST_PREFIX_TOKENS:
            return Place(name, "BNF", side)
    return None


def _counts(model: Classifier, images: Tensor, classes: Tensor, place: Place) -> bool:
    """Whether the logits depend on the places of this layer."""
    return bool(_map_and_slope(model, images, classes, place)[1].any())


def _map_and_slope(model: Classifier, images: Tensor, classes: Tensor, place: Place) -> tuple[Tensor, Tensor]:
    """Two (B, F, s, s): the layer's output, and the slope of the logits in it.

    Only what comes after the layer keeps what gradients need: of the whole network that would be as much as training.
    """
    kept: list[Tensor] = []

    def begin(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # until the end of the `with` below
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # which a ReLU may change in place

    handle = model.backbone.get_submodule(place.module).register_forward_hook(begin)
    try:
        with torch.no_grad():
            slope = torch.zeros(())
            chosen = _chosen(model(images), classes)
            if chosen.requires_grad:
                (found,) = torch.autograd.grad(chosen, kept[-1], allow_unused=True)
                slope = slope if found is None else found
    finally:
        handle.remove()
    output = kept[-1].detach()  # of a layer that is used several times, the last
    return _as_map(output, place), _as_map(slope.to(output).expand_as(output), place)


def _as_map(output: Tensor, place: Place) -> Tensor:
    if place.layout == "BNF":
        patches = output[:, output.shape[1] - place.side**2 :]
        output = patches.transpose(1, 2).reshape(len(patches), -1, place.side, place.side)
    return (output.permute(0, 3, 1, 2) if place.layout == "BssF" else output).float()


def _cam(map_BFss: Tensor, slope_BFss: Tensor) -> Tensor:
    weights = slope_BFss.mean((2, 3), keepdim=True)
    return _to_one((weights * map_BFss).sum(1).relu())


def _evenly(maps_Bss: Tensor, shift: float) -> Tensor:
    """Maps as an even grid over the image, which is how they are drawn; of twice the side where they lie otherwise.

    Half a cell is 5 % of the image for a map of 10 places, and would put the heat beside what is hot.
    """
    if abs(shift) < LEAST_SHIFT:
        return maps_Bss
    side = maps_Bss.shape[-1]
    wanted = (torch.arange(2 * side, device=maps_Bss.device) + 0.5) / 2 - 0.5 + shift  # places, from 0
    at = (2 * wanted + 1) / side - 1
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1).expand(len(maps_Bss), -1, -1, -1)
    even = functional.grid_sample(maps_Bss[:, None], grid, padding_mode="border", align_corners=False)
    return _to_one(even[:, 0])


def _input_gradient(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    with torch.enable_grad():
        x = model.normalized(images.float()).detach().requires_grad_()
        (slope,) = torch.autograd.grad(_chosen(model.backbone(x), classes), x)
    strength = (x.detach() * slope).abs().sum(1, keepdim=True)
    side = min(INPUT_GRID, x.shape[-1])
    return _to_one(functional.adaptive_avg_pool2d(strength, side)[:, 0])


def _chosen(logits_BK: Tensor, classes_B: Tensor) -> Tensor:
    return logits_BK.gather(1, classes_B[:, None]).sum()


def _to_one(maps_Bss: Tensor) -> Tensor:
    largest = maps_Bss.amax((1, 2), keepdim=True)
    return maps_Bss / torch.where(largest > 0, largest, 1)


@contextmanager
def _in_eval_mode(model: Classifier) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
