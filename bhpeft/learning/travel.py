"""Say how many epochs a round needs so that σ can reach its optimum.

After one epoch the curvature is known, and the way σ still has to go with it. Adam moves rho by at
most about its learning rate a step (`bhpeft.posterior.elbo.rho_travel`). A KL that is stepped apart
by SGD moves it by its own flow (`bhpeft.posterior.kl_flow`), which widens; narrowing is left to
Adam, which follows the likelihood.
"""

from __future__ import annotations

from bhpeft.errors import RhoTravelTooShort
from bhpeft.learning.problem import Task, flow_time
from bhpeft.posterior.elbo import check_rho_travel, optimal_std, rho_travel
from bhpeft.posterior.kl_flow import time_to_arrive


def epochs_needed(task: Task, curvature: float) -> tuple[int, float]:
    """Return how many epochs σ needs to arrive, and the travel that takes.

    Args:
        task: the round.
        curvature: h, the mean diagonal Fisher information of one row after one epoch.

    Returns:
        The epochs, and the summed learning rate needed: of rho, or of the KL where it is stepped
        apart; in the units of `Descent.travelled`.

    Raises:
        RhoTravelTooShort: not even `plan.max_epochs` would do.
    """
    return (_by_sgd if task.variant.kl_by_sgd else _by_adam)(task, curvature)


def _by_adam(task: Task, curvature: float) -> tuple[int, float]:
    plan, q = task.plan, task.start.posterior
    way = {
        "start_std": float(q.std.median()),
        "prior_std": float(task.prior.std.median()),
        "rows": len(task.rows),
        "curvature": curvature,
        "kl_weight": task.variant.kl_weight,
        "scale": q.scale,
    }
    for epochs in _possible(task):
        budget = plan.rho_travel(task.steps(epochs)) * task.variant.rho_step
        travel = rho_travel(budget, **way)  # type: ignore[arg-type]
        if travel.needed <= budget:
            return epochs, travel.needed
    check_rho_travel(budget, **way, steps=task.steps(epochs))  # type: ignore[arg-type]
    return epochs, travel.needed


def _by_sgd(task: Task, curvature: float) -> tuple[int, float]:
    q = task.start.posterior
    start, prior = float(q.std.median()), float(task.prior.std.median())
    optimum = optimal_std(prior, len(task.rows), curvature, task.variant.kl_weight)
    needed = time_to_arrive(start, optimum, prior, q.scale)
    for epochs in _possible(task):
        budget = _flow(task, task.steps(epochs))
        if needed <= budget:
            return epochs, needed
    raise RhoTravelTooShort(
        "The round is too short for the KL's own steps to widen the standard deviations",
        found=f"a summed KL learning rate of {budget:.4g} in {epochs} epochs",
        expected=f"at least {needed:.4g}, to go from σ = {start:.3g} to σ* = {optimum:.3g}",
        remedy=f"Multiply learning.plan.max_epochs or kl_learning_rate by {needed / budget:.2f}.",
    )


def _flow(task: Task, steps: int) -> float:
    return sum(flow_time(task, step, steps, task.plan.rate(step, steps)) for step in range(steps))


def _possible(task: Task) -> range:
    return range(task.plan.epochs, max(task.plan.epochs, task.plan.max_epochs) + 1)
