"""A small model for tests that need one, whatever it says."""

from collections.abc import Sequence

from hpa_ray.config import ModelConfig
from hpa_ray.labels import NUM_CLASSES
from hpa_ray.model import Classifier, build_model

RESNET18 = ModelConfig(name="resnet18")


def small_model(mean: Sequence[float], std: Sequence[float], *, seed: int = 0) -> Classifier:
    """A ResNet18 for as many stains as there are means."""
    channels = ("green", "red", "blue", "yellow")[: len(mean)]
    return build_model(
        RESNET18, channels=channels, image_size=32, mean=mean, std=std, num_classes=NUM_CLASSES, seed=seed
    )
