"""Dropout before the last layer, whose names in the state stay. Before: torch. After: model/backbones."""

from torch import Tensor, nn
from torch.nn import functional

# B images, F features, K classes


class DropLinear(nn.Linear):
    """A last layer that drops some of its features in training: part of the head also while all else is frozen."""

    dropout = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """(B, F) -> (B, K)"""
        return super().forward(functional.dropout(input, self.dropout, self.training))


class DropConv2d(nn.Conv2d):
    """The same for SqueezeNet, whose last layer is a 1x1 convolution."""

    dropout = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """(B, F, s, s) -> (B, K, s, s)"""
        return super().forward(functional.dropout(input, self.dropout, self.training))


def set_dropout(backbone: nn.Module, head: str, probability: float) -> None:
    """Drop input features of the layer named `head` with this probability, and by nothing else.

    The dropout that EfficientNet, Inception and others have there of themselves is switched off: the configuration is
    the one place that says it. Dropout elsewhere in an architecture stays.
    """
    folder, _, name = head.rpartition(".")
    siblings = dict(backbone.get_submodule(folder).named_children())
    before = [None, *siblings.values()][list(siblings).index(name)]
    for own in (before, siblings.get("dropout")):  # in a Sequential; in GoogLeNet and Inception
        if isinstance(own, nn.Dropout):
            own.p = 0.0
    old = siblings[name]
    if probability == 0:
        return
    new: DropLinear | DropConv2d
    if isinstance(old, nn.Conv2d):
        new = DropConv2d(old.in_channels, old.out_channels, 1, bias=old.bias is not None, device="meta")
    else:
        assert isinstance(old, nn.Linear)
        new = DropLinear(old.in_features, old.out_features, bias=old.bias is not None, device="meta")
    new.weight, new.bias, new.dropout = old.weight, old.bias, probability
    backbone.set_submodule(head, new)
