"""A model without its numbers, to ask for shapes at no cost. After: model/classifier, model/layers."""

import copy
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def on_meta(model: M) -> M:
    """A copy whose parameters and buffers are on torch's `meta` device: no memory, no arithmetic, and real shapes."""
    tensors = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
    buffers = {id(b): b.to("meta") for b in model.buffers()}
    return copy.deepcopy(model, tensors | buffers)
