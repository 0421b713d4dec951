"""Learn one batch: pass over it until σ has had the way it needs, and return the posterior.

The loss and one step of it are in `bhpeft.learning.descent`; the scaling of the KL is explained in
`bhpeft.posterior.elbo`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Generator

from bhpeft.errors import FitError
from bhpeft.learning.descent import Descent, Task, diverged
from bhpeft.learning.fisher import Fisher
from bhpeft.learning.plan import Plan
from bhpeft.learning.state import AdapterState
from bhpeft.posterior.elbo import check_rho_travel, rho_travel

__all__ = ["Fitted", "Task", "Watch", "fit"]

# Called with the steps taken and the steps planned.
Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Fitted:
    """What a round's training left.

    Attributes:
        state: the candidate's posterior and point weights.
        curve: one mapping a reading: step, nll, kl (nats), loss, learning_rate.
        steps, epochs, seconds: how long it took.
        travel_met: whether rho could have reached its optimum; None where nothing is Gaussian or
            the KL is stepped by SGD, whose travel has no such bound.
    """

    state: AdapterState
    curve: list[dict[str, float]]
    steps: int
    epochs: int
    seconds: float
    travel_met: bool | None


def fit(task: Task, generator: Generator, watch: Watch | None = None) -> Fitted:
    """Learn one batch.

    Args:
        task: the model, where to start, the prior, the rows and the schedule.
        generator: the source of draws and of the order of rows.
        watch: called after each step.

    Raises:
        Diverged: the loss or a parameter is not finite.
        RhoTravelTooShort: σ cannot reach its optimum within `plan.max_epochs`.
        FitError: there are no rows, or training took longer than `plan.max_seconds`.
    """
    _check_rows(task)
    began = time.monotonic()
    descent = Descent.begin(task, generator)
    epochs, met = task.plan.epochs, None
    with _mode(task):
        epoch = 0
        while epoch < epochs:
            steps = epochs * task.steps_an_epoch
            for minibatch in task.rows.minibatches(task.plan.batch_size, generator):
                descent.step(minibatch, steps)
                _check_time(task.plan, began)
                if watch:
                    watch(descent.steps, steps)
            epoch += 1
            if epoch == 1:
                epochs, met = _lengthened(task, descent.gaussian_fisher)
    return Fitted(
        state=descent.finished(),
        curve=descent.curve,
        steps=descent.steps,
        epochs=epochs,
        seconds=time.monotonic() - began,
        travel_met=met,
    )


def _lengthened(task: Task, fisher: Fisher) -> tuple[int, bool | None]:
    """Return how many epochs σ needs to arrive, and whether it was checked.

    After one epoch the curvature is known, and the way rho still has to go with it.
    """
    plan, q = task.plan, task.start.posterior
    if q.size == 0 or task.variant.kl_by_sgd:
        return plan.epochs, None
    curvature = float(fisher.one_row.mean())
    if not math.isfinite(curvature):
        raise diverged("in its first epoch", f"a mean squared gradient of {curvature}")
    way = {
        "start_std": float(q.std.median()),
        "prior_std": float(task.prior.std.median()),
        "rows": len(task.rows),
        "curvature": curvature,
        "kl_weight": task.variant.kl_weight,
        "scale": q.scale,
    }
    for epochs in range(plan.epochs, max(plan.epochs, plan.max_epochs) + 1):
        budget = plan.rho_travel(epochs * task.steps_an_epoch) * task.variant.rho_step
        if rho_travel(budget, **way).needed <= budget:  # type: ignore[arg-type]
            return epochs, True
    check_rho_travel(budget, **way, steps=epochs * task.steps_an_epoch)  # type: ignore[arg-type]
    return epochs, True


def _mode(task: Task) -> AbstractContextManager[None]:
    return task.model.checkpointed() if task.plan.checkpointing else nullcontext()


def _check_rows(task: Task) -> None:
    if len(task.rows) == 0:
        raise FitError(
            "The batch has no training rows",
            found="every row on the hold-out side of the split",
            expected="at least one row",
            remedy="Land larger batches, or merge this one with the next.",
        )


def _check_time(plan: Plan, began: float) -> None:
    if plan.max_seconds and time.monotonic() - began > plan.max_seconds:
        raise FitError(
            "Training took longer than its limit",
            found=f"more than {plan.max_seconds:g} s",
            expected="learning.plan.max_seconds at most",
            remedy="Raise the limit, or train fewer epochs; the batch stays pending.",
        )
