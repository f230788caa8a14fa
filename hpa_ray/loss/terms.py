"""Losses that are a sum over images and classes. Before: logits. After: loss, which joins the two halves.

Each function takes logits (B, K) in float32 or float64 and returns two halves of the same shape and type: what an image
costs that has the class, and what one costs that has not. With targets between 0 and 1 (MixUp, label smoothing) both
count, by t and 1 - t. All is made of logarithms of sigmoids, so a badly missed label keeps its gradient where
log(clamp(sigmoid)) has none.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

# B images, K classes

Halves = tuple[Tensor, Tensor]

DB_ALPHA, DB_BETA, DB_MU = 0.1, 10.0, 0.2
DB_LAMBDA, DB_KAPPA = 2.0, 0.05


def bce(logits_BK: Tensor) -> Halves:
    """Binary cross-entropy: -log p and -log(1 - p)."""
    return -logsigmoid(logits_BK), -logsigmoid(-logits_BK)


def focal(logits_BK: Tensor, *, gamma: float) -> Halves:
    """Cross-entropy times (1 - p)^gamma and p^gamma; without the factor alpha, which class weights stand for.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """
    present, absent = bce(logits_BK)
    return present * torch.exp(-gamma * absent), absent * torch.exp(-gamma * present)


def asl(logits_BK: Tensor, *, gamma_positive: float, gamma_negative: float, shift: float) -> Halves:
    """Asymmetric loss: focal with an exponent of its own for each half; absent classes count p - shift, not below 0.

    Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021. The focusing factors carry gradient: the
    paper's analysis of the gradients does so too, and what is minimised is then the loss that is reported. With a shift
    the gradient of an absent class that is taken for sure goes to 0 by definition: the paper suspects a wrong label.
    """
    present, absent = bce(logits_BK)
    log_rest = -absent  # of 1 - p
    if shift:
        log_rest = torch.logaddexp(log_rest, torch.full_like(log_rest, math.log(shift))).clamp(max=0)
    # the power of 0 has no finite slope for exponents below 1
    shifted = -torch.expm1(log_rest).clamp(max=-torch.finfo(log_rest.dtype).tiny)
    return present * torch.exp(-gamma_positive * absent), -log_rest * shifted**gamma_negative


def distribution_balanced(
    logits_BK: Tensor, targets_BK: Tensor, *, counts_K: Tensor, log_odds_K: Tensor, gamma: float
) -> Halves:
    """Focal loss of shifted logits, tolerant of absent classes, with a weight per image and class.

    Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets", ECCV 2020.
    Weight: alpha + sigmoid(beta (r - mu)), where r = (1 / n_k) / sum_j t_j / n_j compares how often class-balanced
    drawing comes upon an image for this class with how often for any of its classes. Without any label r is infinite
    and the weight 1 + alpha.
    Negative tolerance: with v = z + (kappa / lambda) log odds(n_k / N), -log sigmoid(v) where the class is present and
    -log sigmoid(-lambda v) / lambda where it is absent; kappa is divided by lambda as in the authors' code.
    Focusing: (1 - sigmoid(v))^gamma and sigmoid(lambda v)^gamma. The authors' constant factor 2 is left out, so that
    all losses here ask for about the same learning rate.
    """
    rate_K = 1 / counts_K
    ratio_BK = rate_K / (targets_BK * rate_K).sum(dim=1, keepdim=True)
    weight_BK = DB_ALPHA + torch.sigmoid(DB_BETA * (ratio_BK - DB_MU))
    shifted_BK = logits_BK + DB_KAPPA / DB_LAMBDA * log_odds_K
    present, _ = focal(shifted_BK, gamma=gamma)
    _, absent = focal(DB_LAMBDA * shifted_BK, gamma=gamma)
    return weight_BK * present, weight_BK * absent / DB_LAMBDA
