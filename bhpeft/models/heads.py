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
    """

    pooling: str
    width: int

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
