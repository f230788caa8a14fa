"""Configuration -> Classifier, with weights from a seed or pretrained. Before: config. After: train, checkpoint."""

from collections.abc import Sequence

import torch

from hpa_ray.config.sections import ModelConfig
from hpa_ray.model.adapt import take_over
from hpa_ray.model.backbones import make_backbone
from hpa_ray.model.classifier import Classifier
from hpa_ray.model.weights import find_weights


def build_model(
    cfg: ModelConfig,
    *,
    channels: Sequence[str],
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    seed: int,
    load_weights: bool = True,
) -> Classifier:
    """A model on the CPU, in training mode, for images of these stains and this side in px.

    mean, std: per stain, intensities on the 0 to 1 scale. The weights are drawn from `seed`, the global random state is
    left as it was; then those of cfg.weights are taken over, unless load_weights is False (something will be loaded
    over them). Raises InputError for an unknown name, a size or pooling the architecture can not take, weights that are
    not there or do not fit.
    """
    assert len(mean) == len(std) == len(channels), "one mean and std per stain"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also set those of the GPUs
        backbone = make_backbone(cfg, num_channels=len(channels), image_size=image_size, num_classes=num_classes)
        model = Classifier(backbone, mean=mean, std=std, normalize=cfg.normalize, learned_gamma=cfg.learned_gamma)
        model.check_image_size(image_size)
        if load_weights and cfg.weights is not None:
            given = find_weights(cfg.name, cfg.weights, image_size=image_size)
            take_over(backbone, given, channels=channels, yellow=cfg.stem)
    return model
