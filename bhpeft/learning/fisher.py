"""Estimate the diagonal Fisher information from the gradients training makes anyway.

The gradient ḡ of a mean over B independent rows has, near the optimum, the variance F/B, where F
is the Fisher information of one row. So B·ḡ² estimates F, for the price of a multiplication; the
expectation of the gradient itself, large at the start of a round, adds to it, which is why the
average forgets the start.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The average reaches back about fifty minibatches.
MEMORY = 0.98


class Fisher:
    """A bias-corrected moving average of B·ḡ², one number a weight: total ÷ weight."""

    def __init__(self, weights: int, device: torch.device):
        self.total = torch.zeros(weights, device=device)
        self.weight = 0.0

    def add(self, gradient: Tensor, rows: int) -> None:
        """Take in one minibatch's gradient; see `one_row_of`."""
        self.take(one_row_of(gradient, rows))

    def take(self, one_row: Tensor) -> None:
        """Take in what one minibatch says of one row, (P,)."""
        self.total.mul_(MEMORY).add_(one_row, alpha=1 - MEMORY)
        self.weight = MEMORY * self.weight + (1 - MEMORY)

    @property
    def one_row(self) -> Tensor:
        """Return the Fisher information of one row for each weight, (P,)."""
        return self.total / self.weight if self.weight else self.total


def one_row_of(gradient: Tensor, rows: int) -> Tensor:
    """Return what a minibatch's gradient says of the Fisher information of one row, (P,).

    Args:
        gradient: of the mean NLL, (P,); or (B, P) from one draw an example, where each row's
            score is known on its own and nothing has to be assumed.
        rows: B.
    """
    if gradient.dim() == 2:
        return (gradient * rows).square().mean(0)
    return rows * gradient.square()
