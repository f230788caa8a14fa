"""How much of each augmentation: presets by name, and the keys of a configuration above them. Knows no torch.

Before: config. After: pipeline, and verbs that print what a configuration means.
"""

from dataclasses import dataclass, fields, replace

from hpa_ray.config import AugmentConfig


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Units and meaning are those of the keys of the same name, see config/sections; 0 or False: not at all."""

    flip: bool = False
    quarter_turn: bool = False
    rotate_deg: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    shear_deg: float = 0.0
    crop: float = 0.0
    elastic: float = 0.0
    gain: float = 0.0
    gamma: float = 0.0
    contrast: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    stain_dropout: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 0.5


# Chosen by eye on cells at 256 px. Geometry may go far: cells lie at any angle, and a fifth of size is less than cell
# lines differ by. Intensity may not: to call a weak protein present or a stain absent is what labels are made of.
PRESETS = {
    "none": Amounts(),
    "light": Amounts(flip=True, quarter_turn=True, gain=0.1, gamma=0.1),
    "medium": Amounts(
        flip=True, quarter_turn=True,
        rotate_deg=45, scale=0.15, shift=0.1, shear_deg=5, crop=0.3,
        gain=0.2, gamma=0.2, contrast=0.2, blur=0.5, noise=0.02,
    ),
    "heavy": Amounts(
        flip=True, quarter_turn=True,
        rotate_deg=45, scale=0.25, shift=0.1, shear_deg=10, crop=0.5, elastic=0.012,
        gain=0.25, gamma=0.2, contrast=0.2, blur=1.0, noise=0.03,
        stain_dropout=0.1, cutout=0.3, mixup=0.4, cutmix=1.0,
    ),
}  # fmt: skip


def amounts_of(cfg: AugmentConfig) -> Amounts:
    """The preset with the keys that are set above it; before strength, which differs from image to image."""
    given = {field.name: getattr(cfg, field.name) for field in fields(Amounts)}
    return replace(PRESETS[cfg.preset], **{name: value for name, value in given.items() if value is not None})
