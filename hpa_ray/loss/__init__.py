"""Losses of logits against multi-hot targets, for long tails. Before: model. After: train."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from hpa_ray.config import LossConfig
from hpa_ray.loss.batch import lovasz_hinge, soft_f1
from hpa_ray.loss.terms import Halves, asl, bce, distribution_balanced, focal
from hpa_ray.loss.weighting import class_weights, log_odds

# B images, K classes

__all__ = ["LOSSES", "ClassificationLoss", "build_loss"]


class ClassificationLoss(nn.Module):
    """(B, K) logits of any floating type against (B, K) targets from 0 to 1 -> a loss per image, (B,) float32.

    Mean over the classes of weight x term; the mean over the images is the loss of the batch. Losses of a class over
    the batch (soft_f1, lovasz_hinge) stand at every image alike, so that mean holds for them too. Logits become float32
    at once, inside autocast as well (float64 stays).

    Weights of the classes: `class_weights`. With weight_on=positives they multiply only what present labels cost, in
    proportion to the target; losses over the batch can not be parted so, and are weighed as a whole.

    While training, logits are raised by logit_adjustment x log odds of the class (Menon et al., "Long-tail learning via
    logit adjustment", ICLR 2021, for sigmoids), and targets are smoothed, save for losses over the batch: the F1 of a
    class that every image has by a little is best where all say yes, and Lovasz takes targets as 0 or 1. In eval mode
    there is neither.

    bce_soft_f1_alternating is bce in epochs 0, 2, ... and soft_f1 between, in eval mode too.
    """

    weight_K: Tensor
    shift_K: Tensor
    counts_K: Tensor
    log_odds_K: Tensor

    def __init__(self, cfg: LossConfig, *, class_counts_K: np.ndarray, num_images: int) -> None:
        super().__init__()
        self.cfg = cfg
        odds_K = log_odds(class_counts_K, num_images)
        facts = {
            "weight_K": class_weights(cfg, class_counts_K, num_images),
            "shift_K": cfg.logit_adjustment * odds_K,
            "counts_K": np.maximum(class_counts_K, 0.5),
            "log_odds_K": odds_K,
        }
        for name, values in facts.items():  # they follow from data and settings, so no checkpoint holds them
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, logits_BK: Tensor, targets_BK: Tensor, *, epoch: int = 0) -> Tensor:
        assert logits_BK.shape == targets_BK.shape == (len(logits_BK), len(self.weight_K))
        with torch.autocast(logits_BK.device.type, enabled=False):
            logits = logits_BK if logits_BK.dtype == torch.float64 else logits_BK.float()
            targets = targets_BK.to(logits.dtype)
            if self.training:
                logits = logits + self.shift_K
            name = self.cfg.name
            if name == "bce_soft_f1_alternating":
                name = "soft_f1" if epoch % 2 else "bce"
            if name in BATCH_LOSSES:
                terms_BK = (self.weight_K * BATCH_LOSSES[name](logits, targets)).expand(logits.shape)
            else:
                terms_BK = self._weigh(*TERMS[name](self, logits, targets), targets)
            return terms_BK.mean(dim=1)

    def _weigh(self, present_BK: Tensor, absent_BK: Tensor, targets_BK: Tensor) -> Tensor:
        smoothing = self.cfg.label_smoothing if self.training else 0
        targets_BK = targets_BK * (1 - smoothing) + smoothing / 2
        present_BK, absent_BK = targets_BK * present_BK, (1 - targets_BK) * absent_BK
        if self.cfg.weight_on == "positives":
            return self.weight_K * present_BK + absent_BK
        return self.weight_K * (present_BK + absent_BK)


TERMS: dict[str, Callable[[ClassificationLoss, Tensor, Tensor], Halves]] = {
    "bce": lambda loss, logits, targets: bce(logits),
    "focal": lambda loss, logits, targets: focal(logits, gamma=loss.cfg.focal_gamma),
    "asl": lambda loss, logits, targets: asl(
        logits,
        gamma_positive=loss.cfg.asl_gamma_positive,
        gamma_negative=loss.cfg.asl_gamma_negative,
        shift=loss.cfg.asl_shift,
    ),
    "distribution_balanced": lambda loss, logits, targets: distribution_balanced(
        logits, targets, counts_K=loss.counts_K, log_odds_K=loss.log_odds_K, gamma=loss.cfg.focal_gamma
    ),
}
BATCH_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"soft_f1": soft_f1, "lovasz_hinge": lovasz_hinge}
LOSSES = (*TERMS, *BATCH_LOSSES, "bce_soft_f1_alternating")


def build_loss(cfg: LossConfig, *, class_counts_K: np.ndarray, num_images: int) -> ClassificationLoss:
    """The loss that the settings name, for a training part of num_images images, class_counts_K of each class."""
    return ClassificationLoss(cfg, class_counts_K=class_counts_K, num_images=num_images)
