"""Turn hidden states into one vector a row, from its real tokens only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# hidden (rows, T, d), mask (rows, T) → (rows, d)
Pooling = Callable[[Tensor, Tensor], Tensor]


def mean_pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average over the real tokens, in float32 at least; zeros for a row without any."""
    weight = mask.to(torch.float32).unsqueeze(-1)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def first_pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the first real token, wherever the padding is."""
    return _taken(hidden, mask.long().argmax(dim=1))


def last_pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Take the last real token, the only one that has seen the whole text in a decoder."""
    position = torch.arange(mask.shape[1], device=mask.device)
    return _taken(hidden, (mask.long() * position).argmax(dim=1))


POOLINGS: dict[str, Pooling] = {
    "mean": mean_pooled,
    "first": first_pooled,
    "last": last_pooled,
}


def _taken(hidden: Tensor, positions: Tensor) -> Tensor:
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), positions]
