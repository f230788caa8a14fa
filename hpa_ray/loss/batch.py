"""Losses of a class over the images of a batch: (B, K) logits and targets in float32 or float64 -> (K,) alike."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

# B images, K classes


def soft_f1(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Minus the logarithm of a soft F1 that is made of logarithms too; 0 where the prediction is right and sure.

    The usual 1 - F1 with F1 = 2 sum(t p) / (sum p + sum t) forgets what is missed worst: its gradient falls as p. Here,
    with n = sum t,
        F1 = 2 n G / (n + P)    G: geometric mean of p over the present images (not the arithmetic one, sum(t p) / n)
                                P: sum of t p + (1 - t) (-log(1 - p)) (not sum p)
        loss = -log F1 = -sum(t log p) / n + log((n + P) / 2 n)
    As G and P err on the safe side, loss >= -log(usual F1) >= 1 - usual F1, and the three go to 0 together. A badly
    missed image has a slope of -1/n, one that is falsely said to have the class 1/(n + P).

    A class that no image of the batch has takes the mean of -log(1 - p) instead, its cross-entropy: its F1 is 0 or
    undefined whatever is predicted, and small batches lack most rare classes. One of which mixed images hold less than
    a whole, n < 1, takes n of the first and 1 - n of the second.
    """
    count_K = targets_BK.sum(dim=0)
    n_K = count_K.clamp(min=torch.finfo(count_K.dtype).tiny)
    surprise_BK = -logsigmoid(-logits_BK)  # -log(1 - p)
    missed_K = -(targets_BK * logsigmoid(logits_BK)).sum(dim=0) / n_K
    predicted_K = (targets_BK * torch.sigmoid(logits_BK) + (1 - targets_BK) * surprise_BK).sum(dim=0)
    present_K = missed_K + torch.log(n_K + predicted_K) - torch.log(2 * n_K)
    absent_K = surprise_BK.sum(dim=0) / max(len(logits_BK), 1)
    return torch.lerp(absent_K, present_K, count_K.clamp(max=1))


def lovasz_hinge(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Lovasz extension of the Jaccard loss at the hinge errors, for the class and for its absence: the mean of the two.

    Berman et al., "The Lovasz-Softmax loss", CVPR 2018. For a class that the batch lacks, the first of the two pushes
    only its highest logit and the second all of them. Targets from 0.5 count as present.
    """
    present_BK = targets_BK >= 0.5
    return (_lovasz(logits_BK, present_BK) + _lovasz(-logits_BK, ~present_BK)) / 2


def _lovasz(logits_BK: Tensor, present_BK: Tensor) -> Tensor:
    errors_BK = torch.relu(1 - torch.where(present_BK, logits_BK, -logits_BK))
    with torch.no_grad():
        order_BK = errors_BK.argsort(dim=0, descending=True, stable=True)
        hit_BK = present_BK.gather(0, order_BK).long()  # whole numbers: sums of floats differ between runs on a GPU
        count_K = hit_BK.sum(dim=0)
        kept_BK = count_K - hit_BK.cumsum(dim=0)
        union_BK = count_K + (1 - hit_BK).cumsum(dim=0)
        jaccard_BK = 1 - kept_BK.to(logits_BK.dtype) / union_BK
        step_BK = torch.diff(jaccard_BK, dim=0, prepend=jaccard_BK.new_zeros(1, jaccard_BK.shape[1]))
        step_BK = step_BK.gather(0, order_BK.argsort(dim=0))  # back in the order of the images
    return (errors_BK * step_BK).sum(dim=0)
