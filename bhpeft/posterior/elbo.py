"""Estimate the loss −ELBO/N and its gradient; why the KL is scaled by λ/N is said here, once.

The posterior of a round with N training rows maximises

    ELBO_λ = Σ_{i=1..N} E_q[log p(y_i | x_i, w)] − λ · KL(q ‖ p)

A minibatch of B rows estimates the *mean* over rows without bias whatever B is, so we divide by N:

    loss = mean_i[−log p(y_i | x_i, m + s·ε, φ)] + (λ/N) · [KL(q ‖ p) + ½ Σ_k π_k (φ_k − φ_k,prev)²]

The KL is the sum over weights and N counts rows: not minibatches, not parameters, not epochs.
Then losses and learning rates do not depend on the size of the data or of the minibatch, and
λ = 1 is Bayes. λ is constant over rounds. If it grew with N, every earlier round would count as if
it had had the current round's size. Dividing a KL by the number of weights, or adding it once a
minibatch with weight 1/#minibatches to a mean NLL, silently makes λ depend on the model or on B.

Sources: Blundell et al. 2015 (arXiv 1505.05424) §3; BLoB (arXiv 2406.11675) §3; for the anchor
Kirkpatrick et al. 2017 (arXiv 1612.00796) and Ritter et al. 2018 (arXiv 1805.07810).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, log
from typing import NamedTuple

import torch
from torch import Tensor

from bhpeft.errors import ConfigError, RhoTravelTooShort
from bhpeft.plugins import resolve
from bhpeft.posterior.meanfield import SCALES, MeanField, same_layout

# A σ that only just could reach its optimum in a straight line does not, because the way there is
# noisy; one nat to spare is the margin of the method notes, §3.
TRAVEL_MARGIN = 1.0


class ElboGradient(NamedTuple):
    """The gradient of the loss by the posterior's two vectors, each (P,) float32."""

    mean: Tensor
    rho: Tensor


@dataclass(frozen=True)
class RhoTravel:
    """How far rho can move in a round and how far it has to; both in units of rho.

    Attributes:
        budget: Σ of rho's learning rates over the steps.
        needed: the way from the start to one margin beyond the optimum.
        optimum: the σ* the round should arrive at.
    """

    budget: float
    needed: float
    optimum: float


def kl_scale(kl_weight: float, rows: int) -> float:
    """Return λ/N, the factor of the summed KL beside a mean NLL.

    Raises:
        ConfigError: λ is negative or there are no rows.
    """
    if kl_weight < 0 or rows < 1:
        raise ConfigError(
            "The KL cannot be scaled by λ/N",
            found=f"λ = {kl_weight}, N = {rows}",
            expected="λ ≥ 0 and N ≥ 1 training rows",
        )
    return kl_weight / rows


def warmup(step: int, steps: int, fraction: float) -> float:
    """Return the KL's factor at `step` (from 0): a ramp 0 → 1 over the first `fraction` of `steps`.

    For round 0 only. While B = 0 the likelihood says nothing about A, and the KL alone would
    inflate σ to the prior's.
    """
    ramp = fraction * steps
    return 1.0 if ramp <= 0 else min(1.0, step / ramp)


def blob_kl_weights(minibatches: int) -> list[float]:
    """Return BLoB's weights of the KL over an epoch of M minibatches: increasing, sum 1.

    π_i = 2^i / (2^M − 1) for i = 0 … M−1. Under uniform weights each minibatch of our loss carries
    λ/N of the KL, so the re-weighted loss multiplies `kl_scale` by M·π_i: the epoch's total is the
    same, and λ keeps its meaning.

    Source: arXiv 2406.11675 §3.3, the reverse of Blundell et al. 2015 §3.4.
    """
    # Divided through by 2^M: no overflow for long epochs; early weights may underflow to 0.
    total = 1.0 - 2.0**-minibatches
    return [2.0 ** (i - minibatches) / total for i in range(minibatches)]


def kl_gradient(q: MeanField, prior: MeanField) -> ElboGradient:
    """Return dKL/d mean = (m − m̃)/s̃² and dKL/d rho = (s/s̃² − 1/s) · dσ/d rho, unscaled.

    s/s̃² − 1/s is written as (s − s̃)(s + s̃)/(s·s̃²), which is exactly 0 at s = s̃. The plain form
    leaves a rounding error there, which Adam, blind to size, would turn into full steps: a round
    without data would move.

    Raises:
        StateError: q and the prior are over different weights.
    """
    same_layout(q, prior)
    std, width = q.std, prior.std
    precision = width.square().reciprocal()
    by_std = (std - width) * (std + width) * precision / std
    return ElboGradient((q.mean - prior.mean) * precision, by_std * SCALES[q.scale].slope(q.rho))


def nll_gradient(q: MeanField, eps: Tensor, draw_grad: Tensor) -> ElboGradient:
    """Return the NLL's gradient by mean and rho, given its gradient by the draws.

    With w = m + s·ε: d/d mean = Σ_s g_s and d/d rho = Σ_s g_s·ε_s · dσ/d rho. The sum over draws
    is right because each draw's gradient g_s is already that of the mean over *all* rows.

    Args:
        q: where the draws came from.
        eps: the noise of the draws, (P,) or (S, P).
        draw_grad: d(mean NLL)/d(draw), the shape of `eps`.
    """
    moved = draw_grad * eps
    if draw_grad.dim() > 1:
        draw_grad, moved = draw_grad.sum(0), moved.sum(0)
    return ElboGradient(draw_grad, moved * SCALES[q.scale].slope(q.rho))


@torch.no_grad()
def elbo_gradient(
    q: MeanField, prior: MeanField, eps: Tensor, draw_grad: Tensor, kl_scale: float
) -> ElboGradient:
    """Return the gradient of E[NLL] + kl_scale · KL(q ‖ prior) by mean and rho, each (P,).

    It equals autograd through `q.at(eps)` and `q.kl(prior)`, in a handful of flat operations.

    Args:
        q: the posterior being fitted.
        prior: the round's prior.
        eps: noise of the draw(s), (P,) or (S, P).
        draw_grad: d(mean NLL)/d(draw), the shape of `eps`.
        kl_scale: λ/N, times the warm-up where there is one.
    """
    nll = nll_gradient(q, eps, draw_grad)
    kl = kl_gradient(q, prior)
    return ElboGradient(
        torch.add(nll.mean, kl.mean, alpha=kl_scale), torch.add(nll.rho, kl.rho, alpha=kl_scale)
    )


def anchor_penalty(point: Tensor, previous: Tensor, precision: Tensor) -> Tensor:
    """Return ½ Σ_k π_k (φ_k − φ_k,prev)², the Gaussian prior of the point weights, in nats.

    It stands beside the KL inside the same λ/N: without it all forgetting can happen in the
    weights that have no posterior.

    Args:
        point: the point weights now, (K,).
        previous: the parent version's, (K,).
        precision: π of `online_precision`, (K,).
    """
    return 0.5 * (precision * (point - previous).square()).sum()


def online_precision(
    previous: Tensor, fisher: Tensor, rows: int, decay: float = 1.0, kl_weight: float = 1.0
) -> Tensor:
    """Return the anchor's precision after a round: π ← decay·π + N·F/λ (online Laplace).

    The same sum as for the Gaussian weights, whose precision grows to 1/s̃² + N·h/λ. Inside the
    loss π is multiplied by λ/N again, so a past row pulls exactly as hard as a present one.

    Args:
        previous: π before the round, (K,).
        fisher: the diagonal Fisher information of *one row*, averaged over rows, (K,). The squared
            gradient of a minibatch mean over B rows has to be multiplied by B.
        rows: N, the round's training rows.
        decay: how much of the past stays; the forgetting ρ, 1 keeps all.
        kl_weight: λ.

    Raises:
        ConfigError: decay is outside [0, 1] or λ is not positive.
    """
    if not 0.0 <= decay <= 1.0 or kl_weight <= 0:
        raise ConfigError(
            "The anchor's precision cannot be updated",
            found=f"decay = {decay}, λ = {kl_weight}",
            expected="decay in [0, 1] and λ > 0",
        )
    return decay * previous + (rows / kl_weight) * fisher


def optimal_std(prior_std: float, rows: int, curvature: float, kl_weight: float) -> float:
    """Return σ* = (1/s̃² + N·h/λ)^(−½), where the loss of one weight is least in σ.

    To second order the loss is ½·h·s² + (λ/N)·(s²/(2s̃²) − log s) + const; its derivative by s is
    zero at 1/s² = 1/s̃² + N·h/λ.

    Args:
        prior_std: s̃.
        rows: N.
        curvature: h ≥ 0, the mean diagonal Fisher information of one row.
        kl_weight: λ > 0.
    """
    return float((prior_std**-2 + rows * curvature / kl_weight) ** -0.5)


def rho_travel(
    lr_rho_sum: float,
    *,
    start_std: float,
    prior_std: float,
    rows: int,
    curvature: float,
    kl_weight: float,
    scale: str = "softplus",
    margin: float = TRAVEL_MARGIN,
) -> RhoTravel:
    """Return how far rho can and has to move in a round.

    Adam moves a parameter by at most about its learning rate a step, so Σ lr_rho is the longest
    way rho can go. The way needed is |log(σ*/σ_start)| + margin in nats of σ. Steps are taken in
    rho, so it is measured there: from rho(σ_start) to the rho of the σ that lies `margin` nats
    beyond σ*. For softplus and small σ rho ≈ log σ and the two agree; for σ = G² a nat near σ is
    worth d G/d log σ = G/2 only, √σ/2.

    Args:
        lr_rho_sum: Σ over the round's steps of rho's learning rate.
        start_std: the median σ the round starts at.
        prior_std: the median σ of the round's prior.
        rows: N, the round's training rows.
        curvature: h ≥ 0, the mean diagonal Fisher information of one row.
        kl_weight: λ.
        scale: a key of `SCALES`.
        margin: nats of σ to spare.
    """
    optimum = optimal_std(prior_std, rows, curvature, kl_weight)
    distance = log(optimum / start_std)
    # With nothing left to go the margin is still asked for, downwards: data only ever narrow.
    beyond = optimum * exp(margin if distance > 0 else -margin)
    to_rho = resolve("scale", scale, SCALES).rho
    start, end = to_rho(torch.tensor([start_std, beyond], dtype=torch.float64)).tolist()
    return RhoTravel(budget=lr_rho_sum, needed=abs(end - start), optimum=optimum)


def check_rho_travel(
    lr_rho_sum: float,
    *,
    start_std: float,
    prior_std: float,
    rows: int,
    curvature: float,
    kl_weight: float,
    steps: int | None = None,
    scale: str = "softplus",
    margin: float = TRAVEL_MARGIN,
) -> RhoTravel:
    """Check that the round is long enough for σ to arrive; otherwise σ is its initialisation.

    The check is necessary and, for a σ that grows, sufficient. On the way down rho's gradient
    falls as σ², and an Adam that remembers the large early ones takes ever smaller steps: over
    1.9 nats, on exactly this budget, β2 = 0.999 stopped at 1.8 σ* (2.2 σ* with noisy gradients)
    where β2 = 0.95 arrived (1.3 σ*). Use a short memory for rho, and twice the budget where σ has
    far to fall.

    Arguments as for `rho_travel`; with `steps`, the round's number of steps, the error also says
    how many more would do.

    Raises:
        RhoTravelTooShort: Σ lr_rho is less than the way needed.
    """
    travel = rho_travel(
        lr_rho_sum,
        start_std=start_std,
        prior_std=prior_std,
        rows=rows,
        curvature=curvature,
        kl_weight=kl_weight,
        scale=scale,
        margin=margin,
    )
    if travel.budget >= travel.needed:
        return travel
    raise RhoTravelTooShort(
        "The round is too short for the standard deviations to reach their optimum",
        found=f"a summed rho learning rate of {travel.budget:.4g}",
        expected=f"at least {travel.needed:.4g}, to go from σ = {start_std:.3g} past "
        f"σ* = {travel.optimum:.3g}",
        remedy=_travel_remedy(travel, steps),
    )


def _travel_remedy(travel: RhoTravel, steps: int | None) -> str:
    if travel.budget <= 0:
        return "Give rho a positive learning rate."
    factor = travel.needed / travel.budget
    if steps is None:
        return f"Multiply the steps or the rho learning rate by {factor:.2f}."
    more = ceil(steps * factor) - steps
    return (
        f"Train {more} more steps ({steps + more} in all), or raise the rho learning rate from "
        f"{travel.budget / steps:.3g} to {travel.needed / steps:.3g} (mean over steps)."
    )
