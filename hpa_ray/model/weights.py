"""Pretrained weights by name, file or URI -> tensors by name. Before: storage. After: model/adapt.

Nothing in a file is executed: pickles may hold tensors and plain values only.
"""

import http.client
import io
import json
import os
import re
import zipfile
from collections.abc import Sequence
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
import torchvision
from safetensors.torch import load as load_safetensors
from torch import Tensor

from hpa_ray.config.architectures import TIMM
from hpa_ray.errors import InputError
from hpa_ray.model.checksum import CARD_KEY, is_intact
from hpa_ray.model.timm_models import timm_weights
from hpa_ray.model.torch_zip import verified
from hpa_ray.storage import read_bytes, shown

ENDINGS = (".pth", ".pt", ".safetensors")
WRAPPERS = ("state_dict", "model")
"""Keys under which training programs keep the weights."""
MAX_WRAPPERS = 4
"""Around each other."""
PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""What DDP, torch.compile and our Classifier put before the names; what else such a file holds is not the backbone."""


class Given(NamedTuple):
    where: str
    """For messages."""
    tensors: dict[str, Tensor]
    stains: Sequence[str] | None = None
    """What goes into its first convolution, if the file says so."""


def find_weights(name: str, weights: str, *, image_size: int) -> Given:
    """The tensors of a file or URI, or those published for the architecture `name`. Raises InputError."""
    if shown(weights).endswith(ENDINGS):
        where = f"model.weights = {shown(weights)}"
        try:
            content = read_bytes(weights)
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:200]
            raise InputError(f"{where}: can not be read ({reason})") from error
        return parse(content, where)
    if "/" in weights or os.path.exists(weights):
        raise InputError(f"model.weights = {shown(weights)}: the name of a file must end in {', '.join(ENDINGS)}")
    if name.startswith(TIMM):
        return Given(f"model.weights = {weights}", timm_weights(name, weights, image_size))
    return _published(name, weights)


def parse(content: bytes, where: str) -> Given:
    """The bytes of a .pth, .pt or .safetensors -> its tensors, under names without wrappers. Raises InputError."""
    stains = None
    try:
        if content[8:9] == b"{":  # a safetensors file: the length of its header, then the header
            found: Any = load_safetensors(content)
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
            card = json.loads(metadata.get(CARD_KEY, "null"))
            if not is_intact(card, found):
                raise ValueError("damaged, its checksum does not fit")
            stains = tuple(card["channels"]) if isinstance(card, dict) and "channels" in card else None
        else:
            found = _unpickled(content)
    except UnpicklingError as error:  # its own message tells to load it without this protection
        reason = "it holds more than tensors and plain values, or is damaged"
        raise InputError(f"{where}: {reason} - save the state_dict alone") from error
    except Exception as error:  # damaged files give some fifteen kinds of errors, C library included
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{where}: not a file of weights ({reason})") from error
    for _ in range(MAX_WRAPPERS):  # a dictionary may hold itself
        if isinstance(found, dict):
            found = next((found[key] for key in WRAPPERS if isinstance(found.get(key), dict)), found)
    pairs = found.items() if isinstance(found, dict) else ()
    if not pairs or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in pairs):
        raise InputError(
            f"{where}: no weights by name in it - give a state_dict, alone or under 'state_dict' or 'model'"
        )
    while prefix := next((p for p in PREFIXES if any(key.startswith(p) for key in found)), None):
        found = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    return Given(where, found, stains)


def _unpickled(content: bytes) -> Any:
    stream = io.BytesIO(content)
    if zipfile.is_zipfile(stream):  # else of the time before PyTorch 1.6, as some of torchvision's still are
        stream = verified(content)
    elif not content.startswith(b"\x80"):
        raise ValueError("neither of torch.save nor of safetensors")
    stream.seek(0)
    return torch.load(stream, map_location="cpu", weights_only=True)


def _published(name: str, weights: str) -> Given:
    """Weights of torchvision, from its cache or downloaded into it."""
    base = "resnet50" if name == "resnet50_enhanced" else name
    if base not in torchvision.models.list_models(module=torchvision.models):
        raise InputError(f"model.weights = {weights}: {name} has no published weights - give a file, or none")
    known = torchvision.models.get_model_weights(base)
    wanted = weights.upper() if weights.upper() == "DEFAULT" else weights
    if wanted not in known.__members__:
        names = ", ".join(member.name for member in known) or "none"
        advice = f"or a file ending {', '.join(ENDINGS)}"
        raise InputError(
            f"model.weights = {weights}: no weights of {name} - it has {names}; give one of them, {advice}"
        )
    url = known[wanted].url
    folder = os.path.join(torch.hub.get_dir(), "checkpoints")
    path = os.path.join(folder, url.rpartition("/")[2])
    if not os.path.exists(path):
        beginning = re.search(r"-([0-9a-f]{8,})\.", path)
        try:
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(url, path, beginning[1] if beginning else None, progress=False)
        except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: a wrong checksum
            raise InputError(
                f"model.weights = {weights}: {url} can not be downloaded ({' '.join(str(error).split())[:200]}) - "
                "download it elsewhere and give the file as model.weights"
            ) from error
    with open(path, "rb") as file:
        return parse(file.read(), f"model.weights = {weights} ({path})")
