"""Heads: what turns the hidden states of a row into the numbers a task reads.

A head is an ordinary module whose trainable weights are sites like any method's, so that a draw of
them is put in place the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from bhpeft.methods import Site
from bhpeft.methods.sampled import sampled_linear
from bhpeft.models.load import LoadedBase

# BERT's initialiser range, which every Hugging Face classification head starts from.
HEAD_STD = 0.02


class Head(Protocol):
    """What a task puts on top of a base.

    Attributes:
        pooling: which pooling it reads, where it is not free to read any; else empty.
        width: d, the size of what it reads.
        rows: its weights that have a row for each label.
    """

    pooling: str
    width: int
    rows: tuple[str, ...]

    def __call__(self, pooled: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Map pooled (rows, d), or (rows, T, d) where nothing is pooled, to (rows, outputs)."""
        ...

    def sites(self) -> list[Site]:
        """Return its trainable weights."""
        ...

    def to(self, device: torch.device | str) -> object:
        """Move it, in place."""
        ...


class LinearHead(nn.Module):
    """A linear map in float32 of pooled hidden states."""

    pooling = ""
    rows: tuple[str, ...] = ("head.weight", "head.bias")

    def __init__(self, base: LoadedBase, outputs: int, generator: Generator):
        super().__init__()
        self.width = int(base.model.config.hidden_size)
        start = HEAD_STD * torch.randn(outputs, self.width, generator=generator)
        self.weight = nn.Parameter(start.to(base.model.device))
        self.bias = nn.Parameter(torch.zeros(outputs, device=base.model.device))

    def forward(self, pooled: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Map pooled (rows, d) to (rows, outputs)."""
        return sampled_linear(pooled.to(self.weight.dtype), self.weight, self.bias)

    def sites(self) -> list[Site]:
        """Return the sites of weight and bias; a bias has one input, which is always 1."""
        return [
            Site("head.weight", "head.weight", self, "weight", self.width),
            Site("head.bias", "head.bias", self, "bias", 1),
        ]


# Adam moves a weight by its rate a step. A log-variance has to travel units where other weights
# move by hundredths, so the weight is a tenth of it.
LOG_VARIANCE_STEP = 10.0


class GaussianHead(LinearHead):
    """A linear map to a mean, with one log-variance for all rows beside it."""

    rows: tuple[str, ...] = ()

    def __init__(self, base: LoadedBase, outputs: int, generator: Generator):
        super().__init__(base, outputs, generator)
        self.log_variance = nn.Parameter(torch.zeros(1, device=base.model.device))

    def forward(self, pooled: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Map pooled (rows, d) to (rows, 2): mean and log-variance."""
        mean = super().forward(pooled, minibatch)
        # One value, or one a draw, each for as many rows.
        spread = self.log_variance.reshape(-1, 1)
        spread = spread.repeat_interleave(len(mean) // len(spread), 0)
        return torch.cat([mean, LOG_VARIANCE_STEP * spread], dim=-1)

    def sites(self) -> list[Site]:
        """Return the sites of weight, bias and log-variance."""
        name = "head.log_variance"
        return [*super().sites(), Site(name, name, self, "log_variance", 1)]
