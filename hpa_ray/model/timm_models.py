"""Networks and weights of timm, an extra of this package. Before: config. After: model/backbones, model/weights.

timm is imported when one is asked for: it is large, and not needed for anything else.
"""

import difflib
import importlib
from typing import Any, NamedTuple

from torch import Tensor, nn

from hpa_ray.config.architectures import TIMM
from hpa_ray.errors import InputError

POOLS = {"avg": None, "avgmax": "catavgmax"}
"""Our names of a pooling -> timm's; None: what the architecture has of itself."""
DEFAULT = "default"


class TimmParts(NamedTuple):
    module: nn.Module
    stem: str | None
    head: str


def make_timm(name: str, num_channels: int, image_size: int, num_classes: int, pooling: str) -> TimmParts:
    """A network of timm, without weights of its makers; `name` with the prefix timm/. Raises InputError."""
    if pooling not in POOLS:
        raise InputError(f"model.pooling = {pooling}: {name} can not have it - give model.pooling = avg or avgmax")
    options: dict[str, Any] = {"in_chans": num_channels, "num_classes": num_classes} | _size(name, image_size)
    if POOLS[pooling] is not None:
        options["global_pool"] = POOLS[pooling]
    try:
        module: nn.Module = _timm().create_model(name.removeprefix(TIMM), **options)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        setting = f"model.pooling = {pooling}, " if POOLS[pooling] is not None else ""
        advice = "give another size or architecture" if not setting else "give model.pooling = avg"
        raise InputError(
            f"{setting}model.name = {name}: timm can not build it for {image_size} px ({reason}) - {advice}"
        ) from error
    heads = [key for key, layer in module.named_modules() if layer is module.get_classifier()]  # type: ignore[operator]
    if len(heads) != 1 or not isinstance(module.get_submodule(heads[0]), nn.Linear | nn.Conv2d):
        raise InputError(
            f"model.name = {name}: it does not end in one layer for the classes - choose another architecture"
        )
    stem = _timm().get_pretrained_cfg(name.removeprefix(TIMM)).first_conv
    known = isinstance(stem, str) and isinstance(dict(module.named_modules()).get(stem), nn.Conv2d)
    return TimmParts(module, stem if known else None, heads[0])


def timm_weights(name: str, tag: str, image_size: int) -> dict[str, Tensor]:
    """The published weights `tag` (or `default`) as timm itself loads them, for three channels. Raises InputError."""
    timm, plain = _timm(), name.removeprefix(TIMM)
    config = timm.get_pretrained_cfg(plain)
    plain = plain.partition(".")[0]  # timm/NAME.TAG is NAME, and its default weights are those of the tag
    tags = [full.partition(".")[2] for full in timm.list_pretrained(plain + ".*")]
    if not tags or (tag != DEFAULT and tag not in tags):
        has = f"{DEFAULT}, {', '.join(tags)}" if tags else "no published weights"
        raise InputError(f"model.weights = {tag}: {name} has {has} - or give a file ending .pth, .pt or .safetensors")
    full = f"{plain}.{config.tag if tag == DEFAULT else tag}"
    try:
        module: nn.Module = timm.create_model(full, pretrained=True, **_size(name, image_size))
    except OSError as error:  # also what huggingface_hub raises
        url = f"https://huggingface.co/timm/{full}/resolve/main/model.safetensors"
        raise InputError(
            f"model.weights = {tag}: {url} can not be downloaded ({type(error).__name__}) - "
            "download it elsewhere and give the file as model.weights"
        ) from error
    return module.state_dict()


def _size(name: str, image_size: int) -> dict[str, int]:
    """What create_model must be told of the images: nothing, unless the architecture has a fixed size."""
    plain = name.removeprefix(TIMM)
    config = _timm().get_pretrained_cfg(plain) if _timm().is_model(plain) else None
    if config is None:
        close = difflib.get_close_matches(plain[:100], _timm().list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(TIMM + other for other in close)}?" if close else "timm.list_models() has all"
        raise InputError(f"model.name = {name[:120]}: timm has no architecture of this name - {hint}")
    return {"img_size": image_size} if config.fixed_input_size else {}


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise InputError("model.name = timm/...: needs the extra: pip install 'hpa-ray[timm]'") from error
