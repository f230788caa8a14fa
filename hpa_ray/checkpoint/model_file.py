"""model.safetensors: weights and all that is needed to use them; loading it executes nothing."""

import json
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from hpa_ray.channels import STAIN_ORDER
from hpa_ray.config import ModelConfig, Stains
from hpa_ray.errors import InputError
from hpa_ray.labels import NUM_CLASSES, VOCABULARY
from hpa_ray.model import Classifier, build_model
from hpa_ray.model.checksum import CARD_KEY, CHECKSUM, is_intact, with_checksum
from hpa_ray.progress import one_line
from hpa_ray.storage import exists, join, read_bytes, write_bytes

FORMAT = "hpa-ray-model"
FORMAT_VERSION = 2
"""2: the card holds all settings of the model; version 1 held the name of its architecture, and is read."""
MODEL_FILE = "model.safetensors"
LAST_MODEL_FILE = "model_last.safetensors"


class ModelCard(BaseModel):
    """The metadata of a model file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    version: int = FORMAT_VERSION
    vocabulary: str = VOCABULARY
    stain_order: str = STAIN_ORDER
    channels: Stains
    image_size: int = Field(ge=1, le=4096)
    model: ModelConfig
    run: str
    epoch: int
    """Finished epochs of the run when these weights were taken."""
    thresholds: tuple[float, ...] = Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)
    """Per class, tuned on the validation part."""
    config: str
    """The resolved configuration of the run, YAML."""


class ShippedModel(NamedTuple):
    model: Classifier
    card: ModelCard


def save_model(uri: str, model: Classifier, card: ModelCard) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    fields = with_checksum(card.model_dump(mode="json"), tensors)
    write_bytes(uri, save(tensors, {CARD_KEY: json.dumps(fields)}))


def load_model(run: str) -> ShippedModel:
    """The model of a run folder or of a model.safetensors, in eval mode. Raises InputError."""
    uri = run if run.endswith(".safetensors") else join(run, MODEL_FILE)
    try:
        data = read_bytes(uri) if exists(uri) else None
    except OSError as error:
        raise InputError(f"{uri}: can not be read ({' '.join(str(error).split())[:200]})") from error
    if data is None:
        advice = "give a run folder that has finished an epoch, or a model.safetensors"
        raise InputError(f"{uri}: no such model - {advice}")
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        stored = json.loads(header["__metadata__"][CARD_KEY])
        content = _as_version_2(stored)
        for name, expected in (
            ("format", FORMAT),
            ("version", FORMAT_VERSION),
            ("vocabulary", VOCABULARY),
            ("stain_order", STAIN_ORDER),
        ):
            if content[name] != expected:
                words = name.replace("_", " ")
                raise InputError(f"{uri}: its {words} is {content[name]!r}, this program reads {expected!r}")
        card = ModelCard.model_validate({name: value for name, value in content.items() if name != CHECKSUM})
        if not is_intact(stored, tensors):
            raise InputError(f"{uri}: damaged (its checksum does not fit) - bring back a good copy of it")
    except InputError:
        raise
    except (SafetensorError, ValidationError, LookupError, TypeError, ValueError, RecursionError) as error:
        reason = one_line("it has no model card" if isinstance(error, KeyError) else " ".join(str(error).split())[:200])
        raise InputError(f"{uri}: not a model file of this program ({reason})") from error
    blank = [0.0] * len(card.channels)
    try:
        model = build_model(
            card.model,
            channels=card.channels,
            image_size=card.image_size,
            mean=blank,
            std=blank,
            num_classes=NUM_CLASSES,
            seed=0,
            load_weights=False,
        )
        model.load_state_dict(tensors)
    except (InputError, RuntimeError) as error:
        reason = one_line(" ".join(str(error).split())[:200])
        raise InputError(f"{uri}: the weights do not fit {card.model.name} ({reason})") from error
    return ShippedModel(model.eval(), card)


def _as_version_2(card: dict[str, Any]) -> dict[str, Any]:
    if card["version"] != 1:
        return card
    kept = {name: value for name, value in card.items() if name != "architecture"}
    return kept | {"version": FORMAT_VERSION, "model": {"name": card["architecture"]}}
