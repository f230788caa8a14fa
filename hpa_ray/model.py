"""Classifiers: torchvision ResNets with a stem for any number of stains and a head for the class vocabulary."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34, resnet50

ARCHITECTURES = {"resnet18": resnet18, "resnet34": resnet34, "resnet50": resnet50}

# B images, C stains, S side in px, K classes


class Classifier(nn.Module):
    """Normalisation and backbone in one module, so that a stored model takes uint8 images as they are.

    Architectures: He et al., "Deep residual learning for image recognition", CVPR 2016.
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, name: str, *, mean: Sequence[float], std: Sequence[float], num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std_C", torch.tensor(std, dtype=torch.float32).clamp_min(1e-3))  # a black stain
        # zero-init: each residual block starts as the identity, which trains better from scratch (Goyal et al. 2017)
        backbone = ARCHITECTURES[name](weights=None, num_classes=num_classes, zero_init_residual=True)
        if len(mean) != backbone.conv1.in_channels:
            stem = backbone.conv1
            backbone.conv1 = nn.Conv2d(len(mean), stem.out_channels, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.backbone = backbone

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """(B, C, S, S) uint8 -> (B, K) logits."""
        scaled = (images_BCSS.float() / 255 - self.mean_C.view(-1, 1, 1)) / self.std_C.view(-1, 1, 1)
        logits: Tensor = self.backbone(scaled)
        return logits


def build_model(name: str, *, mean: Sequence[float], std: Sequence[float], num_classes: int, seed: int) -> Classifier:
    """A model with weights drawn from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also set those of the GPUs
        return Classifier(name, mean=mean, std=std, num_classes=num_classes)
