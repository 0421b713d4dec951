"""Make the weights methods start from: float32, and fixed by a seed on any device."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Generator, Tensor, nn


def beside(module: nn.Module, make: Callable[[], Tensor]) -> nn.Parameter:
    """Return a parameter on the device of `module`, made on the CPU so that a seed fixes it."""
    device = next(module.parameters()).device
    return nn.Parameter(make().to(device))


def kaiming(out_features: int, in_features: int, generator: Generator) -> Tensor:
    """Return a Kaiming-uniform (out, in) matrix with a = √5, the start of every nn.Linear."""
    empty = torch.empty(out_features, in_features)
    return nn.init.kaiming_uniform_(empty, a=sqrt(5), generator=generator)
