"""Turn hidden states into one vector a row, from its real tokens only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# hidden (rows, T, d), mask (rows, T) → (rows, d)
Pooling = Callable[[Tensor, Tensor], Tensor]
# mask (rows, T) → (rows,)
Position = Callable[[Tensor], Tensor]


def mean_pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average over the real tokens, in float32 at least; zeros for a row without any."""
    weight = mask.to(torch.float32).unsqueeze(-1)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def first_position(mask: Tensor) -> Tensor:
    """Return where each row's first real token is, wherever the padding is, (rows,)."""
    return mask.long().argmax(dim=1)


def last_position(mask: Tensor) -> Tensor:
    """Return where each row's last real token is, (rows,).

    It is the only one that has seen the whole text in a decoder.
    """
    position = torch.arange(mask.shape[1], device=mask.device)
    return (mask.long() * position).argmax(dim=1)


# Poolings that read one token a row: nothing above the keys and values of the last layer has to be
# computed for any other (`bhpeft.models.last_layer`).
POSITIONS: dict[str, Position] = {"first": first_position, "last": last_position}

POOLINGS: dict[str, Pooling] = {
    # For heads that read every token: nothing is pooled.
    "every": lambda hidden, mask: hidden,
    "mean": mean_pooled,
    "first": lambda hidden, mask: taken(hidden, first_position(mask)),
    "last": lambda hidden, mask: taken(hidden, last_position(mask)),
}


def taken(x: Tensor, positions: Tensor) -> Tensor:
    """Return x[b, positions[b]] for every row b, (rows, …)."""
    return x[torch.arange(x.shape[0], device=x.device), positions]
