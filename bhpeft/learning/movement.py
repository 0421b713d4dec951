"""Move what a step moves: the Gaussian weights by one of three optimisers, the points by AdamW.

    adam      AdamW on mean and rho; the KL is part of the loss
    adam_sgd  AdamW on the NLL, then the KL on its own for SGD's time (`bhpeft.posterior.kl_flow`)
    ivon      a Newton-like step whose curvature is q's own precision (`bhpeft.posterior.ivon`)

A way of moving is a function (descent, what was gathered, pace) → how far σ can have come in this
step, in the units `bhpeft.learning.travel` asks for.

Sources: Blundell et al. 2015 (arXiv 1505.05424); BLoB (arXiv 2406.11675); IVON (arXiv 2402.17641).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bhpeft.learning.lesson import flow_time, rate_of_means
from bhpeft.learning.travel import ivon_share, ivon_travel
from bhpeft.posterior.elbo import ElboGradient, kl_gradient, kl_scale
from bhpeft.posterior.ivon import Pace as Newton
from bhpeft.posterior.ivon import ivon_step
from bhpeft.posterior.kl_flow import kl_flow

if TYPE_CHECKING:
    from bhpeft.learning.descent import Descent

# rho's gradient falls as σ² on the way down, and Adam's usual memory of a thousand steps keeps it
# from arriving: on a noiseless toy with just the travel needed, σ ended 1.78 times its optimum with
# β2 = 0.999 and 0.99 times with 0.95.
RHO_BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Pace:
    """How far a step goes.

    Attributes:
        rate: the learning rates' factor.
        scale: λ/N times the step's share of the KL.
        steps: how many steps there are to be.
    """

    rate: float
    scale: float
    steps: int


Move = Callable[["Descent", ElboGradient, Tensor, Pace], float]


def groups(mean: Tensor, rho: Tensor, point: Tensor) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups, in the order the moves below set their rates."""
    return [{"params": [mean]}, {"params": [rho], "betas": RHO_BETAS}, {"params": [point]}]


def adam(descent: Descent, found: ElboGradient, point: Tensor, pace: Pace) -> float:
    """Step all of the loss together."""
    kl = kl_gradient(descent.q, descent.prior)
    descent.mean.grad = found.mean + pace.scale * kl.mean
    descent.rho.grad = found.rho + pace.scale * kl.rho
    return _step(descent, point, pace)


def adam_sgd(descent: Descent, found: ElboGradient, point: Tensor, pace: Pace) -> float:
    """Step the NLL, then let the KL act for the time SGD would give it."""
    descent.mean.grad, descent.rho.grad = found
    _step(descent, point, pace)
    time = flow_time(descent.lesson, descent.steps, pace.steps, pace.rate)
    descent.become(kl_flow(descent.q, descent.prior, time))
    return time


def ivon(descent: Descent, found: ElboGradient, point: Tensor, pace: Pace) -> float:
    """Step the mean by q's own precision, and the precision by what the draw showed of it.

    The KL is whole from the first step on: it is what the steps are measured by.
    """
    lesson = descent.lesson
    variant = lesson.variant
    newton = Newton(
        scale=kl_scale(variant.kl_weight, len(lesson.rows)),
        mean=rate_of_means(lesson, pace.steps) * variant.mean_step * pace.rate,
        curvature=ivon_share(lesson),
        step=descent.steps + 1,
    )
    moved, momentum = ivon_step(descent.q, descent.prior, descent.momentum, found, newton)
    _step(descent, point, pace)
    descent.become(moved)
    descent.momentum.copy_(momentum)
    return ivon_travel(lesson)


MOVES: dict[str, Move] = {"adam": adam, "adam_sgd": adam_sgd, "ivon": ivon}


def _step(descent: Descent, point: Tensor, pace: Pace) -> float:
    """Let AdamW step what has a gradient; return how far rho can have moved."""
    plan, variant = descent.lesson.plan, descent.lesson.variant
    descent.point.grad = point
    rho_rate = plan.rho_learning_rate * variant.rho_step
    rate = rate_of_means(descent.lesson, pace.steps)
    rates = (rate * variant.mean_step, rho_rate, rate)
    for group, base in zip(descent.optimiser.param_groups, rates, strict=True):
        group["lr"] = base * pace.rate
    descent.optimiser.step()
    return rho_rate * pace.rate
