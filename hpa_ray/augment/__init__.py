"""Batched augmentation on the device, a draw per sample. Before: stream. After: model.

What is drawn for a sample is a pure function of its seed: it does not depend on the batch, the worker or the device it
is in. Only MixUp and CutMix look at another sample, the one before it in the batch. Presets are known without torch.
"""

from typing import TYPE_CHECKING, Any

from hpa_ray.augment.presets import PRESETS, Amounts, amounts_of

if TYPE_CHECKING:
    from hpa_ray.augment.pipeline import Augment, build_augment
    from hpa_ray.augment.symmetry import SquareSymmetry

__all__ = ["PRESETS", "Amounts", "Augment", "SquareSymmetry", "amounts_of", "build_augment"]


def __getattr__(name: str) -> Any:
    if name in ("Augment", "build_augment"):
        from hpa_ray.augment import pipeline

        return getattr(pipeline, name)
    if name == "SquareSymmetry":
        from hpa_ray.augment import symmetry

        return symmetry.SquareSymmetry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
