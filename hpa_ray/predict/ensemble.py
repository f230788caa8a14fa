"""One or several shipped models as one. Before: checkpoint/model_file. After: infer.

A folder of `crossval` stands for the models of all its folds, with the thresholds tuned on their predictions of images
that they have not seen.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import yaml

from hpa_ray.checkpoint.fold_folder import fold_runs, is_crossval, out_of_fold_thresholds
from hpa_ray.checkpoint.model_file import ShippedModel, load_model
from hpa_ray.checkpoint.run_folder import RunFolder
from hpa_ray.config import InferenceConfig
from hpa_ray.errors import InputError
from hpa_ray.model.checksum import CHECKSUM, with_checksum

WEIGHT_SCORE = "macro_f1_tuned"
"""Of the validation part; what models are weighted by where no weights are given."""
NAME_LENGTH = 100

# M members, B images, K classes


class Member(NamedTuple):
    uri: str
    name: str
    shipped: ShippedModel
    thresholds_K: np.ndarray

    @property
    def checksum(self) -> str:
        """Of the weights and of all that the model file says of them."""
        tensors = {name: tensor.detach().cpu() for name, tensor in self.shipped.model.state_dict().items()}
        return str(with_checksum(self.shipped.card.model_dump(mode="json"), tensors)[CHECKSUM])

    @property
    def precision(self) -> str:
        """train.precision of the run; `auto` where the model does not tell."""
        try:
            return str(yaml.safe_load(self.shipped.card.config)["train"]["precision"])
        except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, RecursionError):
            return "auto"


@dataclass(frozen=True)
class Ensemble:
    """Takes images of one size and of the same stains; a single model is an ensemble too."""

    members: tuple[Member, ...]
    cfg: InferenceConfig
    weight_M: tuple[float, ...]  # adding up to 1
    name: str

    @property
    def channels(self) -> tuple[str, ...]:
        return self.members[0].shipped.card.channels

    @property
    def image_size(self) -> int:
        return self.members[0].shipped.card.image_size

    @property
    def matches_sources(self) -> bool:
        """Whether any of the models wants images of further sources brought to the first one's intensities."""
        return any(member.shipped.card.model.normalize == "source" for member in self.members)

    @property
    def thresholds_K(self) -> np.ndarray:
        """(K,) float64: the (weighted) mean of the members' thresholds."""
        return self._mean(np.stack([member.thresholds_K for member in self.members]))

    def combined(self, probability_MBK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M, B, K) float64 probabilities of the members -> (B, K) float64 of the whole, (B, K) bool labels."""
        probability_BK = self._mean(probability_MBK)
        if self.cfg.combine == "or":
            threshold_MK = np.stack([member.thresholds_K for member in self.members])
            return probability_BK, np.asarray((probability_MBK >= threshold_MK[:, None]).any(axis=0))
        return probability_BK, np.asarray(probability_BK >= self.thresholds_K)

    def _mean(self, value_M: np.ndarray) -> np.ndarray:
        if len(value_M) == 1:
            return np.asarray(value_M[0])
        return np.tensordot(np.asarray(self.weight_M), value_M, axes=1)


def open_ensemble(
    runs: Sequence[str], cfg: InferenceConfig, say: Callable[[str], None] = lambda text: None
) -> Ensemble:
    """The models of run folders, model files and folders of `crossval`. Raises InputError.

    say: gets a line where the weights were not given.
    """
    return ensemble_of(open_members(runs), cfg, say)


def open_members(runs: Sequence[str]) -> list[Member]:
    """In the order of the runs and folds. Raises InputError."""
    return [member for run in runs for member in _opened(run)]


def ensemble_of(
    members: Sequence[Member], cfg: InferenceConfig, say: Callable[[str], None] = lambda text: None
) -> Ensemble:
    """Models that take the same images, as one. Raises InputError for those that do not."""
    kinds = Counter((member.shipped.card.channels, member.shipped.card.image_size) for member in members)
    usual = kinds.most_common(1)[0][0]
    for member in members:
        kind = member.shipped.card.channels, member.shipped.card.image_size
        if kind != usual:
            raise InputError(
                f"{member.uri}: takes {_kind(*kind)}, the other models take {_kind(*usual)} - models of an ensemble "
                "must take the same images"
            )
    names = list(dict.fromkeys(member.name.partition("/")[0] for member in members))
    return Ensemble(tuple(members), cfg, _weights(members, cfg, say), _cut(names))


def alone(uri: str, shipped: ShippedModel) -> Ensemble:
    """A model by itself, as it was scored when it was trained: one view of each image."""
    return ensemble_of([_member(uri, shipped)], InferenceConfig())


def _member(uri: str, shipped: ShippedModel) -> Member:
    return Member(uri, shipped.card.run, shipped, np.asarray(shipped.card.thresholds))


def _opened(run: str) -> list[Member]:
    if not is_crossval(run):
        return [_member(run, load_model(run))]
    thresholds_K, name = out_of_fold_thresholds(run), os.path.basename(run.partition("?")[0].rstrip("/"))
    return [Member(uri, f"{name}/{number}", load_model(uri), thresholds_K) for number, uri in enumerate(fold_runs(run))]


def _weights(members: Sequence[Member], cfg: InferenceConfig, say: Callable[[str], None]) -> tuple[float, ...]:
    if cfg.weights and cfg.combine != "weighted":
        raise InputError("inference.weights does nothing without inference.combine=weighted - give both or none")
    if cfg.combine != "weighted":
        return (1 / len(members),) * len(members)
    if cfg.weights and len(cfg.weights) != len(members):
        raise InputError(
            f"inference.weights has {len(cfg.weights)} weights for {len(members)} models: give one for each"
        )
    scores = cfg.weights or tuple(map(_validation_score, members))
    total = sum(scores)
    if not total:
        raise InputError(f"every model has a {WEIGHT_SCORE} of 0 on its validation part - give inference.weights")
    weights = tuple(score / total for score in scores)
    if not cfg.weights:
        listed = ", ".join(f"{m.name} {weight:.3f}" for m, weight in zip(members, weights, strict=True))
        say(f"weights by {WEIGHT_SCORE} of each model's validation part: {listed}")
    return weights


def _validation_score(member: Member) -> float:
    folder = RunFolder(os.path.dirname(member.uri) if member.uri.endswith(".safetensors") else member.uri)
    try:
        summary: Any = folder.read_json("summary.json")
        return float(summary[WEIGHT_SCORE])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"{folder.uri}: has no summary.json with {WEIGHT_SCORE}, by which models are weighted - give "
            "inference.weights"
        ) from error


def _kind(channels: Sequence[str], image_size: int) -> str:
    return f"{','.join(channels)} at {image_size} px"


def _cut(names: Sequence[str]) -> str:
    """Names joined by +; what does not fit is counted."""
    kept = [names[0][:NAME_LENGTH]]
    while len(kept) < len(names) and len("+".join([*kept, names[len(kept)]])) <= NAME_LENGTH:
        kept.append(names[len(kept)])
    left = len(names) - len(kept)
    return "+".join([*kept, f"{left} more"] if left else kept)
