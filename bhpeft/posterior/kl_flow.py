"""Let the KL act on its own for a while: its gradient flow, integrated in closed form.

BLoB steps the KL by plain SGD beside AdamW on the NLL. One SGD step of rate η follows the flow

    dm/dt = −(m − m̃)/s̃²            d rho/dt = −dKL/d rho

for the time η. A step in a straight line overshoots where the prior is narrow (unstable from
s̃² < η/2 on, which posterior → prior rounds reach), and its size at the start depends on 1/σ. The
flow itself has a closed form, so we take that: equal to SGD to first order in η, stable for any η.

    m(t) = m̃ + (m − m̃)·exp(−t/s̃²)
    σ = G²:          dσ/dt = 4·(1 − σ²/s̃²)      σ(t) = s̃·(σ + s̃·τ)/(s̃ + σ·τ),  τ = tanh(4t/s̃)
    σ = softplus:    dσ/dt = c²·σ·(1 − σ²/s̃²)   σ²/s̃² is logistic in 2c²t,  c = (dσ/d rho)/σ ≈ 1

So under σ = G² a small σ grows by 4 a unit of time, whatever it is: Σ η ≥ s̃/4 or so is what takes
it to the prior, and *that* is how long such a round has to be.

Source: BLoB (arXiv 2406.11675) §3.3 for the two optimisers; the closed forms are derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import atanh, log

import torch
from torch import Tensor

from bhpeft.posterior.meanfield import SCALES, MeanField, same_layout

# A σ that the flow brings to nine tenths of its optimum counts as arrived: it comes ever slower.
ARRIVED = 0.9


@dataclass(frozen=True)
class Flow:
    """How σ moves under the KL alone.

    Attributes:
        after: (σ, s̃, time, dσ/d rho) → σ that much later.
        time: (σ, a larger σ below s̃, s̃) → how long the way takes.
    """

    after: Callable[[Tensor, Tensor, float, Tensor], Tensor]
    time: Callable[[float, float, float], float]


def _after_square(std: Tensor, width: Tensor, time: float, slope: Tensor) -> Tensor:
    tau = torch.tanh(4.0 * time / width)
    return width * (std + width * tau) / (width + std * tau)


def _after_softplus(std: Tensor, width: Tensor, time: float, slope: Tensor) -> Tensor:
    left = torch.exp(-2.0 * time * (slope / std).square())
    share = (std / width).square()
    return width * (share / (share + (1.0 - share) * left)).sqrt()


def _logit_of_square(share: float) -> float:
    return log(share**2 / (1.0 - share**2))


FLOWS: dict[str, Flow] = {
    "square": Flow(
        _after_square,
        lambda start, end, width: width / 4 * (atanh(end / width) - atanh(start / width)),
    ),
    "softplus": Flow(
        _after_softplus,
        lambda start, end, width: (
            (_logit_of_square(end / width) - _logit_of_square(start / width)) / 2
        ),
    ),
}


@torch.no_grad()
def kl_flow(q: MeanField, prior: MeanField, time: float) -> MeanField:
    """Return q after the KL's gradient flow acted on it for `time`.

    At q = prior it is q, to the bit: a round that teaches nothing must not move.

    Args:
        q: where it starts.
        prior: where it pulls to.
        time: SGD's learning rate times the KL's weight in this step, in nats.

    Raises:
        StateError: q and the prior are over different weights.
    """
    same_layout(q, prior)
    std, width = q.std, prior.std
    gap = q.mean - prior.mean
    moved = gap * torch.expm1(-time / width.square())
    later = FLOWS[q.scale].after(std, width, time, SCALES[q.scale].slope(q.rho))
    rho = torch.where(std == width, q.rho, SCALES[q.scale].rho(later))
    return replace(q, mean=q.mean + moved, rho=rho)


def time_to_arrive(start_std: float, optimum: float, prior_std: float, scale: str) -> float:
    """Return how long the KL needs to widen σ from its start to `ARRIVED` of its optimum.

    Args:
        start_std: the median σ the round starts at.
        optimum: σ*, see `bhpeft.posterior.elbo.optimal_std`.
        prior_std: s̃, the median; σ* is never above it.
        scale: a key of `FLOWS`.

    Returns:
        0 where σ has not to grow.
    """
    end = ARRIVED * min(optimum, prior_std)
    return FLOWS[scale].time(start_std, end, prior_std) if start_std < end else 0.0
