"""Take IVON's step: a Newton-like one for the mean, whose curvature is the precision of q.

With c = λ/N, S = 1/s² and the prior N(m̃, s̃²), the curvature of the mean NLL that q stands for is
h = c·S − c/s̃², and

    ĥ = E[ĝ ε] / s                                    from the gradient ĝ at the draw m + s ε
    x = (1 − β₂)(ĥ − h) / (c S)                       S ← S (1 + x + x²/2)
    g ← β₁ g + (1 − β₁) ĝ                             m ← m − α (g/(1 − β₁ᵗ) + c (m − m̃)/s̃²) / (c S)

The factor 1 + x + x²/2 is at least ½, so σ stays real whatever the noise. The published algorithm
keeps h and a weight decay δ; with δ = c/s̃² and a decay towards m̃ it is the same, and there is
nothing to keep beside q but the running g. At q = prior and without a gradient nothing moves.

Source: Shen et al. 2024 (arXiv 2402.17641), algorithm 1; on LoRA, Cong et al. 2024 (2411.04421).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bhpeft.posterior.elbo import ElboGradient
from bhpeft.posterior.meanfield import SCALES, MeanField

# β₁, the memory of the gradient; the paper's.
MOMENTUM = 0.9


@dataclass(frozen=True)
class Pace:
    """How far one step goes.

    Attributes:
        scale: c = λ/N.
        mean: α, 1 for a whole Newton step.
        curvature: 1 − β₂, the share of the curvature that a step replaces.
        step: t, counted from 1.
    """

    scale: float
    mean: float
    curvature: float
    step: int


@torch.no_grad()
def ivon_step(
    q: MeanField, prior: MeanField, momentum: Tensor, found: ElboGradient, pace: Pace
) -> tuple[MeanField, Tensor]:
    """Return q and the running gradient after one step.

    Args:
        q: where the draws came from.
        prior: the round's.
        momentum: g, (P,), zeros at first.
        found: the mean NLL's gradient by mean and rho (`bhpeft.posterior.elbo.nll_gradient`).
        pace: how far to go.
    """
    scale = SCALES[q.scale]
    std = q.std
    damping = pace.scale * prior.std.square().reciprocal()
    total = pace.scale * std.square().reciprocal()
    observed = found.rho / (scale.slope(q.rho) * std)
    x = pace.curvature * (observed - (total - damping)) / total
    total = total * (1.0 + x + 0.5 * x.square())
    # Where nothing was seen, not even the rounding of σ → rho → σ may move it.
    rho = torch.where(x == 0, q.rho, scale.rho((pace.scale / total).sqrt()))
    momentum = torch.lerp(found.mean, momentum, MOMENTUM)
    unbiased = momentum / (1.0 - MOMENTUM**pace.step)
    move = (unbiased + damping * (q.mean - prior.mean)) / total
    return replace(q, mean=q.mean - pace.mean * move, rho=rho), momentum
