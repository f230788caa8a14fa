"""Weights that were made for other stains, classes or sizes -> a backbone of ours. Before: model/weights. After: build.

First convolution, where stains differ: each stain takes the filters of its own name (an RGB file has red, green and
blue; a model file of ours says its stains). Yellow, where the file has none, is a copy of red, the mean of all, or
zero; any other stain that is not there takes the mean. All filters are then multiplied by (channels of the file /
stains whose filters are not zero), so that the layer answers as strongly as before to stains that look alike. A single
stain in place of RGB takes the sum of the three filters, which is what they give on a gray picture. Equal numbers of
channels are taken as they are, unless the file says that the stains are others.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from hpa_ray.errors import InputError
from hpa_ray.model.backbones import Backbone
from hpa_ray.model.own import IdentityBlock
from hpa_ray.model.pooling import GEM_EXPONENT
from hpa_ray.model.weights import Given

# C stains, F filters, k side of a filter

RGB = ("red", "green", "blue")
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Heads of GoogLeNet and Inception for training from scratch, which ours have not."""
POSITIONS = "encoder.pos_embedding"
EXTRA = re.compile(r"\.(conv|bn)_extra\.")
OLDER_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)
"""As torchvision's files of DenseNet and ViT were written."""


def take_over(backbone: Backbone, given: Given, *, channels: Sequence[str], yellow: str) -> None:
    """Load the weights into the backbone in place. Raises InputError unless all but the named exceptions fits.

    The last layer is taken only if it has the same shape. Counters of batch normalisation and the exponent of GeM may
    be missing or too many. Where the extra convolutions of resnet50_enhanced are missing, they start as the identity.
    """
    own = backbone.module.state_dict()
    found = {_name_now(key): tensor for key, tensor in given.tensors.items() if not key.startswith(AUXILIARY)}
    head = {key for key in own if key.rpartition(".")[0] == backbone.head}
    if any(key not in found or found[key].shape != own[key].shape for key in head):
        found = {key: tensor for key, tensor in found.items() if key.rpartition(".")[0] != backbone.head}
    else:
        head = set()
    stem = f"{backbone.stem}.weight"
    if stem in found and found[stem].dim() == 4:
        found[stem] = stem_filters(found[stem], given.stains, channels, yellow, given.where)
    if POSITIONS in found and POSITIONS in own and found[POSITIONS].shape != own[POSITIONS].shape:
        found[POSITIONS] = _positions(found[POSITIONS], backbone.module, own[POSITIONS])
    plain = {key for key in own if EXTRA.search(key)}
    if plain & found.keys():
        plain = set()

    excused = (".num_batches_tracked", f".{GEM_EXPONENT}")
    missing = [key for key in own if key not in found and key not in head | plain and not key.endswith(excused)]
    unexpected = [key for key in found if key not in own and not key.endswith(excused)]
    misshapen = [key for key in own if key in found and found[key].shape != own[key].shape]
    if missing or unexpected or misshapen:
        raise InputError(_misfit(backbone.name, given, own, found, missing, unexpected, misshapen))
    with torch.no_grad():
        for key in own.keys() & found.keys():
            own[key].copy_(found[key])
        if plain:
            for module in backbone.module.modules():
                if isinstance(module, IdentityBlock):
                    module.pass_through()


def stem_filters(
    filters_FCkk: Tensor, stains: Sequence[str] | None, channels: Sequence[str], yellow: str, where: str
) -> Tensor:
    """(F, channels of the file, k, k) -> (F, C, k, k) by the rule above; `yellow`: red, mean or zero.

    Raises InputError if the channels of the file can not be told.
    """
    num_given = filters_FCkk.shape[1]
    if stains is None or len(stains) != num_given:
        if num_given == len(channels):
            return filters_FCkk
        if num_given != len(RGB):
            advice = f"only files for {len(channels)} or 3 channels, or models of this program, can be taken"
            raise InputError(
                f"{where}: its first convolution has {num_given} channels and does not say which - {advice}"
            )
        if len(channels) == 1:
            return filters_FCkk.sum(dim=1, keepdim=True)
        stains = RGB
    by_stain = {stain: filters_FCkk[:, number] for number, stain in enumerate(stains)}
    if tuple(stains) == tuple(channels):
        return filters_FCkk
    mean = filters_FCkk.mean(dim=1)
    rules = {"red": by_stain.get("red", mean), "mean": mean, "zero": torch.zeros_like(mean)}
    absent = {"yellow": rules[yellow]}
    taken = [by_stain.get(stain, absent.get(stain, mean)) for stain in channels]
    nonzero = sum(stain in by_stain or stain != "yellow" or yellow != "zero" for stain in channels)
    return torch.stack(taken, dim=1) * (num_given / max(nonzero, 1))


def _name_now(key: str) -> str:
    for pattern, now in OLDER_NAMES:
        key = pattern.sub(now, key)
    return key


def _positions(given: Tensor, module: nn.Module, own: Tensor) -> Tensor:
    """Embeddings of the places of a ViT's patches, (1, 1 + patches, width), at another number of patches."""
    if (
        given.dim() != 3
        or given.shape[2] != own.shape[2]
        or round((given.shape[1] - 1) ** 0.5) ** 2 != given.shape[1] - 1
    ):
        return given  # the comparison of shapes will say it
    resized = interpolate_embeddings(module.image_size, module.patch_size, {POSITIONS: given.float()})
    result: Tensor = resized[POSITIONS]
    return result


def _misfit(
    name: str,
    given: Given,
    own: dict[str, Tensor],
    found: dict[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str],
) -> str:
    def shape(tensors: dict[str, Tensor], key: str) -> str:
        return str(tuple(tensors[key].shape)) if key in tensors else "nothing"

    first = (misshapen + missing + unexpected)[0]
    counts = [f"{len(missing)} missing", f"{len(unexpected)} unexpected", f"{len(misshapen)} of another shape"]
    return (
        f"{given.where}: the weights do not fit {name} ({', '.join(c for c in counts if c[0] != '0')}; first {first}: "
        f"{shape(found, first)} in the file, {shape(own, first)} in the model) - give weights of {name}, "
        "or as model.name the architecture they are of"
    )
