"""Learn one batch: pass over it until σ has had the way it needs, and return the posterior.

The loss and one step of it are in `bhpeft.learning.descent`, how many there are in
`bhpeft.learning.course`; the scaling of the KL is explained in `bhpeft.posterior.elbo`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from torch import Generator

from bhpeft.errors import FitError, TimeLimit
from bhpeft.learning.checkpoint import Checkpoint, Place, new_order
from bhpeft.learning.course import Course
from bhpeft.learning.descent import Descent
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.plan import Plan
from bhpeft.learning.state import AdapterState
from bhpeft.models.adapted import Minibatch
from bhpeft.models.transfer import on_device

__all__ = ["Fitted", "Lesson", "Watch", "fit"]

# Called with the steps taken and the steps planned.
Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Fitted:
    """What a round's training left.

    Attributes:
        state: the candidate's posterior and point weights.
        curve: one mapping a reading: step, nll, kl (nats), loss, learning_rate.
        steps, epochs, seconds: how long it took.
        travel_met: whether rho could have reached its optimum; None where nothing is Gaussian.
        settled: whether it ended early because the loss had stopped falling.
        kl_weight: the λ it was learned under.
        minibatch: rows of a minibatch; 0 where nothing was passed over.
    """

    state: AdapterState
    curve: list[dict[str, float]]
    steps: int
    epochs: int
    seconds: float
    travel_met: bool | None
    settled: bool = False
    kl_weight: float = 1.0
    minibatch: int = 0


def fit(
    lesson: Lesson, generator: Generator, watch: Watch | None = None, kept: Path | None = None
) -> Fitted:
    """Learn one batch.

    Args:
        lesson: the model, where to start, the prior, the rows and the schedule.
        generator: the source of draws and of the order of rows.
        watch: called after each step.
        kept: the folder where a long training is saved, and taken up by a later attempt.

    Raises:
        Diverged: the loss or a parameter is not finite.
        RhoTravelTooShort: σ cannot reach its optimum within `plan.max_epochs`.
        TimeLimit: training took longer than `plan.max_seconds`.
        RanksFailed: the processes that learn it together have come apart.
        FitError: there are no rows.
    """
    check_rows(lesson)
    saved = Checkpoint.opened(kept, lesson, generator, lesson.plan.save_every) if kept else None
    descent, course = Descent.begin(lesson, generator), Course(lesson, lesson.plan.epochs)
    place = saved.restore(descent, course) if saved else Place()
    began = time.monotonic() - place.seconds
    with mode(lesson):
        for step in walked(descent, course, place):
            check_time(lesson.plan, began)
            if saved:
                here = replace(step, seconds=time.monotonic() - began)
                saved.save_in_time(descent, course, here)
            if watch:
                watch(descent.steps, course.steps)
    return Fitted(
        state=descent.finished(),
        curve=descent.curve,
        steps=descent.steps,
        epochs=min(course.epochs, math.ceil(descent.steps / lesson.steps_an_epoch)),
        seconds=time.monotonic() - began,
        travel_met=course.travel_met,
        settled=course.settled,
        kl_weight=lesson.variant.kl_weight,
        minibatch=lesson.minibatch,
    )


def walked(descent: Descent, course: Course, place: Place) -> Iterator[Place]:
    """Take the steps of a training one by one; yield after each where it is.

    Args:
        descent: what moves; its lesson and its generator say over which rows, in which order.
        course: how far.
        place: where an interrupted attempt left off, or the beginning.
    """
    lesson = descent.lesson
    for epoch in course:
        if epoch != place.epoch:
            place = Place(epoch, new_order(descent.generator))
        left = course.steps - descent.steps
        for group in islice(_groups(lesson, place.order), place.moves, place.moves + left):
            for minibatch in group:
                descent.gather(minibatch)
            descent.move(course.steps)
            place = replace(place, moves=place.moves + 1)
            yield place
        descent.read()
        lesson.ranks.check_same(descent.mean, descent.rho, descent.point)
        course.judge(epoch, descent)


def _groups(lesson: Lesson, order: int) -> Iterator[list[Minibatch]]:
    """Yield the minibatches of an epoch, as many together as one step is made from."""
    source = Generator().manual_seed(order)
    minibatches = lesson.rows.minibatches(lesson.minibatch, source, lesson.ranks.share)
    moved = on_device(minibatches, lesson.model.device)
    while group := list(islice(moved, lesson.plan.accumulate)):
        yield group


def mode(lesson: Lesson) -> AbstractContextManager[None]:
    """Return the scope a training runs in: activations recomputed, where the plan says so."""
    return lesson.model.checkpointed() if lesson.plan.checkpointing else nullcontext()


def check_rows(lesson: Lesson) -> None:
    """Refuse a problem without rows.

    Raises:
        FitError: it has none.
    """
    if len(lesson.rows) == 0:
        raise FitError(
            "The batch has no training rows",
            found="every row on the hold-out side of the split",
            expected="at least one row",
            remedy="Land larger batches, or merge this one with the next.",
        )


def check_time(plan: Plan, began: float) -> None:
    """End a training that has run out of time.

    Raises:
        TimeLimit: it began longer ago than the plan allows.
    """
    if plan.max_seconds and time.monotonic() - began > plan.max_seconds:
        raise TimeLimit(
            "Training took longer than its limit",
            found=f"more than {plan.max_seconds:g} s",
            expected="learning.plan.max_seconds at most",
            remedy="Raise the limit, or train fewer epochs; the batch stays pending.",
        )
