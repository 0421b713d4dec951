"""Deterministic factors forget, anchored ones do not: the online Laplace anchor, exactly."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from bhpeft.posterior import anchor_penalty, kl_scale, online_precision

SEEDS, ROWS, WIDTH = 30, 60, 6
# What round 1 sees clearly round 2 sees dimly, and the other way round.
SCALES = (
    torch.tensor([1.0, 1.0, 1.0, 0.05, 0.05, 0.05], dtype=torch.float64),
    torch.tensor([0.2, 0.2, 0.2, 1.0, 1.0, 1.0], dtype=torch.float64),
)


class Round:
    """Rows of a linear model with unit noise, and its mean NLL up to a constant."""

    def __init__(self, scale: Tensor, weights: Tensor, source: Generator):
        noise = torch.randn(ROWS, generator=source, dtype=torch.float64)
        self.x = torch.randn(ROWS, WIDTH, generator=source, dtype=torch.float64) * scale
        self.y = self.x @ weights + noise

    def nll(self, weights: Tensor) -> Tensor:
        return 0.5 * (self.y - self.x @ weights).square().mean()

    @property
    def fisher(self) -> Tensor:
        """Of one row, diagonal."""
        return self.x.square().mean(0)


def learned(batch: Round, start: Tensor, precision: Tensor) -> Tensor:
    """Return the minimum of the round's loss, its anchor included."""

    def loss(weights: Tensor) -> Tensor:
        anchor = kl_scale(1.0, ROWS) * anchor_penalty(weights, start, precision)
        return batch.nll(weights) + anchor

    # Quadratic, so one step of Newton's method is at the minimum.
    gradient = torch.autograd.functional.jacobian(loss, start)
    curvature = torch.autograd.functional.hessian(loss, start)
    return start - torch.linalg.solve(curvature, gradient)


def forgotten(seed: int, anchored: bool) -> tuple[float, float]:
    """Return how much round 1's NLL rises in round 2, and how much round 2's falls."""
    source = Generator().manual_seed(seed)
    truths = [torch.randn(WIDTH, generator=source, dtype=torch.float64) for _ in SCALES]
    first, second = (Round(s, t, source) for s, t in zip(SCALES, truths, strict=True))
    nothing = torch.full((WIDTH,), 1e-3, dtype=torch.float64)
    start = learned(first, torch.zeros(WIDTH, dtype=torch.float64), nothing)
    kept = online_precision(nothing, first.fisher, ROWS)
    after = learned(second, start, kept if anchored else torch.zeros_like(kept))
    rise = float(first.nll(after) - first.nll(start))
    return rise, float(second.nll(start) - second.nll(after))


def test_free_weights_forget_and_anchored_ones_learn_without_forgetting() -> None:
    """Over thirty problems, paired: under a tenth of the forgetting, most of the learning."""
    free = np.array([forgotten(seed, anchored=False) for seed in range(SEEDS)])
    held = np.array([forgotten(seed, anchored=True) for seed in range(SEEDS)])

    def upper(values: np.ndarray) -> float:
        return float(values.mean() + 1.96 * values.std(ddof=1) / np.sqrt(SEEDS))

    assert free[:, 0].mean() > 0.5
    assert upper(held[:, 0] - free[:, 0] / 10) < 0
    assert upper(0.85 * free[:, 1] - held[:, 1]) < 0


def test_the_anchor_is_what_all_rows_at_once_would_say_where_curvature_is_diagonal() -> None:
    """With uncorrelated inputs round after round is the joint optimum."""
    source = Generator().manual_seed(0)
    weights = torch.randn(WIDTH, generator=source, dtype=torch.float64)
    first, second = (Round(scale, weights, source) for scale in SCALES)
    for one in (first, second):
        # Uncorrelated to the last digit: QR's columns, at the lengths they had.
        basis = torch.linalg.qr(one.x).Q
        noise = one.y - one.x @ weights
        one.x = basis * one.x.norm(dim=0)
        one.y = one.x @ weights + noise
    nothing = torch.full((WIDTH,), 1e-3, dtype=torch.float64)
    zero = torch.zeros(WIDTH, dtype=torch.float64)
    start = learned(first, zero, nothing)
    after = learned(second, start, online_precision(nothing, first.fisher, ROWS))
    x, y = torch.cat([first.x, second.x]), torch.cat([first.y, second.y])
    joint = torch.linalg.solve(x.t() @ x + nothing.diag(), x.t() @ y)
    torch.testing.assert_close(after, joint, atol=1e-6, rtol=1e-6)
