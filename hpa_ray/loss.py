"""Losses of logits against multi-hot targets. Before: model. After: train."""

import torch
from torch import Tensor

# B images, K classes


def bce(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the classes -> (B,) float32; in log-sigmoid form, so nothing saturates."""
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits_BK.float(), targets_BK, reduction="none")
    return losses.mean(dim=1)


LOSSES = {"bce": bce}
