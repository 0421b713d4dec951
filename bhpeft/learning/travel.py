"""Say how many epochs a round needs so that σ can reach its optimum.

After one epoch the curvature is known, and the way σ still has to go with it. How fast it can go is
the optimiser's: Adam moves rho by at most about its learning rate a step
(`bhpeft.posterior.elbo.rho_travel`). A KL that is stepped apart by SGD moves it by its own flow
(`bhpeft.posterior.kl_flow`), which widens; narrowing is left to Adam, which follows the likelihood.
IVON replaces a share of the precision in each step, so the rest of the way shrinks by that share.

That σ can arrive does not say it stays. Adam's step in rho is as long as its rate however little
the gradient knows, so in a round of few long steps σ goes a nat either way by chance, the next one
has that for its prior, and it adds up. What a later round's rows can have done to σ is known, and
bounds where it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log, log1p

import torch
from torch import Tensor

from bhpeft.errors import RhoTravelTooShort
from bhpeft.learning.lesson import Lesson, flow_time
from bhpeft.posterior import MeanField, clamp_std
from bhpeft.posterior.elbo import check_rho_travel, optimal_std, rho_travel
from bhpeft.posterior.kl_flow import ARRIVED, time_to_arrive

# How many times the information that a round's gradients show of its rows σ may have followed: each
# weight's is estimated from a few minibatches, and far too low for hardly any of them.
MOST_INFORMATION = 4.0


@dataclass(frozen=True)
class Travel:
    """How σ travels under one optimiser.

    Attributes:
        needed: (round, h) → the epochs σ needs to arrive and the travel that takes, in the units
            of `Descent.travelled`.
        left: (round, the rates' factor) → the travel of one more epoch over which the rates fall
            to zero from there.
    """

    needed: Callable[[Lesson, float], tuple[int, float]]
    left: Callable[[Lesson, float], float]


def epochs_needed(lesson: Lesson, curvature: float) -> tuple[int, float]:
    """Return how many epochs σ needs to arrive, and the travel that takes.

    Args:
        lesson: the round.
        curvature: h, the mean diagonal Fisher information of one row after one epoch.

    Returns:
        The epochs, and the travel needed: the summed learning rate of rho, that of the KL where it
        is stepped apart, or −Σ log β₂; in the units of `Descent.travelled`.

    Raises:
        RhoTravelTooShort: not even `plan.max_epochs` would do.
    """
    return TRAVELS[lesson.variant.optimiser].needed(lesson, curvature)


def within_reach(lesson: Lesson, q: MeanField, prior: MeanField, curvature: Tensor) -> MeanField:
    """Return a later round's q with no σ further than its rows can have taken it.

    Rows narrow the prior to σ* = (1/s̃² + N·h/λ)^(−½) and widen nothing. So σ ends between a σ* of
    `MOST_INFORMATION` times their information, or its start where that is narrower still, and s̃, or
    its start where that is wider; weights inside keep their bits. A first round is left as it is:
    the base prior stays its own, whatever became of σ, so nothing adds up.

    Args:
        lesson: the round.
        q: where the descent ended.
        prior: the round's.
        curvature: h of each weight, the diagonal Fisher information of one row, (P,).
    """
    if lesson.first or not q.size:
        return q
    information = MOST_INFORMATION * len(lesson.rows) / lesson.variant.kl_weight * curvature
    narrowest = (prior.std**-2 + information).rsqrt()
    start = lesson.start.posterior.std.to(q.rho.device)
    return clamp_std(q, torch.minimum(start, narrowest), torch.maximum(start, prior.std))


def travel_left(lesson: Lesson, rate: float) -> float:
    """Return the travel of one more epoch over which the rates fall from `rate` to zero."""
    return TRAVELS[lesson.variant.optimiser].left(lesson, rate)


def ivon_share(lesson: Lesson) -> float:
    """Return 1 − β₂, the share of the precision that one step of IVON replaces."""
    return min(lesson.plan.rho_learning_rate * lesson.variant.rho_step, 0.5)


def ivon_travel(lesson: Lesson) -> float:
    """Return −log β₂ of one step: by e to minus it the rest of σ's way shrinks."""
    return -log1p(-ivon_share(lesson))


def _by_adam(lesson: Lesson, curvature: float) -> tuple[int, float]:
    plan, q = lesson.plan, lesson.start.posterior
    way = {
        "start_std": float(q.std.median()),
        "prior_std": float(lesson.prior.std.median()),
        "rows": len(lesson.rows),
        "curvature": curvature,
        "kl_weight": lesson.variant.kl_weight,
        "scale": q.scale,
    }
    for epochs in _possible(lesson):
        budget = plan.rho_travel(lesson.steps(epochs)) * lesson.variant.rho_step
        travel = rho_travel(budget, **way)  # type: ignore[arg-type]
        if travel.needed <= budget:
            return epochs, travel.needed
    check_rho_travel(budget, **way, steps=lesson.steps(epochs))  # type: ignore[arg-type]
    return epochs, travel.needed


def _by_sgd(lesson: Lesson, curvature: float) -> tuple[int, float]:
    start, prior, optimum = _way(lesson, curvature)
    needed = time_to_arrive(start, optimum, prior, lesson.start.posterior.scale)
    epochs, budget = _enough(lesson, needed, lambda steps: _flow(lesson, steps))
    if needed <= budget:
        return epochs, needed
    raise RhoTravelTooShort(
        "The round is too short for the KL's own steps to widen the standard deviations",
        found=f"a summed KL learning rate of {budget:.4g} in {epochs} epochs",
        expected=f"at least {needed:.4g}, to go from σ = {start:.3g} to σ* = {optimum:.3g}",
        remedy=f"Multiply learning.plan.max_epochs or kl_learning_rate by {needed / budget:.2f}.",
    )


def _by_ivon(lesson: Lesson, curvature: float) -> tuple[int, float]:
    start, _, optimum = _way(lesson, curvature)
    needed = ivon_needed(start, optimum)
    epochs, budget = _enough(lesson, needed, lambda steps: steps * ivon_travel(lesson))
    if needed <= budget:
        return epochs, needed
    raise RhoTravelTooShort(
        "The round is too short for IVON to replace the precision it started from",
        found=f"a rest of {exp(-budget):.2g} of it after {epochs} epochs",
        expected=f"at most {exp(-needed):.2g}, to go from σ = {start:.3g} to σ* = {optimum:.3g}",
        remedy=f"Multiply learning.plan.max_epochs or rho_learning_rate by {needed / budget:.2f}.",
    )


def _enough(lesson: Lesson, needed: float, travel: Callable[[int], float]) -> tuple[int, float]:
    """Return the fewest epochs whose steps are travel enough, or the most, and their travel."""
    for epochs in _possible(lesson):
        budget = travel(lesson.steps(epochs))
        if needed <= budget:
            break
    return epochs, budget


def ivon_needed(start_std: float, optimum: float) -> float:
    """Return the −Σ log β₂ after which σ is within `ARRIVED` of its optimum, or over it by that.

    S = S* + (S₀ − S*)·Π β₂ for the precisions, if the curvature stays what it is.
    """
    apart = (optimum / start_std) ** 2 - 1.0
    near = ARRIVED**-2 - 1.0 if apart > 0 else 1.0 - ARRIVED**2
    return max(0.0, log(abs(apart) / near)) if apart else 0.0


TRAVELS: dict[str, Travel] = {
    # The rates fall linearly, so the last epoch is worth half of what they are at its start.
    "adam": Travel(
        _by_adam,
        lambda lesson, rate: (
            rate
            * lesson.plan.rho_learning_rate
            * lesson.variant.rho_step
            * (lesson.steps_an_epoch + 1)
            / 2
        ),
    ),
    # An increasing KL has its say at the end of an epoch, when the rates are zero.
    "adam_sgd": Travel(_by_sgd, lambda lesson, rate: 0.0),
    # β₂ does not fall with the rates.
    "ivon": Travel(_by_ivon, lambda lesson, rate: lesson.steps_an_epoch * ivon_travel(lesson)),
}


def _way(lesson: Lesson, curvature: float) -> tuple[float, float, float]:
    """Return the medians of σ at the start and of the prior, and the optimum."""
    start, prior = float(lesson.start.posterior.std.median()), float(lesson.prior.std.median())
    return start, prior, optimal_std(prior, len(lesson.rows), curvature, lesson.variant.kl_weight)


def _flow(lesson: Lesson, steps: int) -> float:
    return sum(
        flow_time(lesson, step, steps, lesson.plan.rate(step, steps)) for step in range(steps)
    )


def _possible(lesson: Lesson) -> range:
    return range(lesson.plan.epochs, max(lesson.plan.epochs, lesson.plan.max_epochs) + 1)
