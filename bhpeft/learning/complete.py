"""Learn a batch completely: every member of an ensemble, then what the variant does afterwards.

A first round's prefix may be learned through a network (`bhpeft.learning.projection`), and a KL
that the variant averages over weights becomes the sum it is, with the λ that implies.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Generator

from bhpeft.errors import ConfigError
from bhpeft.learning.finishes import FINISHES, Selection
from bhpeft.learning.fit import Fitted, Watch, fit
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.look import curvature
from bhpeft.learning.members import joined, member
from bhpeft.learning.projection import ejected, entered, projection_of
from bhpeft.learning.state import layout
from bhpeft.posterior import flatten, online_precision, unflatten

# As `bhpeft.learning.fit.fit`.
Fit = Callable[[Lesson, Generator, Watch | None, Path | None], Fitted]


def complete(
    lesson: Lesson,
    generator: Generator,
    selection: Selection,
    watch: Watch | None = None,
    kept: Path | None = None,
    fit: Fit = fit,
) -> Fitted:
    """Learn one batch with all that its variant asks for.

    Args:
        lesson: the round; its start has the variant's members.
        generator: the source of draws and orders, of one member after the other.
        selection: rows kept for choices that no gate looks at.
        watch: called after each step, for each member anew.
        kept: the folder where a long training is saved: the member's that is being trained.
        fit: what trains a member, in this process or on several.

    Raises:
        FitError: as for `bhpeft.learning.fit.fit`.
        ConfigError: the finish has nothing to work on.
    """
    count = lesson.start.spec.members
    found = [
        _learned(replace(lesson, start=member(lesson.start, index)), generator, watch, kept, fit)
        for index in range(count)
    ]
    whole = replace(
        found[0],
        state=joined([one.state for one in found]),
        steps=sum(one.steps for one in found),
        seconds=sum(one.seconds for one in found),
    )
    if not lesson.variant.finish:
        return whole
    return replace(whole, state=FINISHES[lesson.variant.finish](whole.state, lesson, selection))


def unchanged(lesson: Lesson, generator: Generator, selection: Selection) -> Fitted:
    """Return the round's start as it is, with all a look at the rows says of it.

    The mean weights say what they said before. A posterior's σ is found without training, and the
    point weights are anchored by the curvature the rows give them, as if they had been learned.

    Args:
        lesson: a first round, whose start is worth keeping: a checkpoint learned elsewhere.
        generator: the source of draws and of the order of rows.
        selection: rows kept for choices that no gate looks at.

    Raises:
        ConfigError: there is nothing to find a σ of or with, or there are several members.
    """
    if lesson.start.spec.members > 1:
        raise ConfigError(
            "One checkpoint is no ensemble",
            found=f"{lesson.start.spec.members} members, of which one was learned",
            remedy='Say start_as = "prior", or use another variant.',
        )
    began = time.monotonic()
    lesson, start = _with_lambda(lesson), lesson.start
    _, one_row = curvature(lesson, generator)
    shapes, lam = layout(start.point), lesson.variant.kl_weight
    anchor = online_precision(
        flatten(start.precision, shapes), one_row, len(lesson.rows), kl_weight=lam
    )
    state = replace(start, precision=unflatten(anchor, shapes))
    finish = lesson.variant.finish or ("training_free" if start.posterior.size else "")
    if finish:
        state = FINISHES[finish](state, lesson, selection)
    seconds = time.monotonic() - began
    return Fitted(state, [], 0, 0, seconds, travel_met=None, kl_weight=lam)


def _learned(
    lesson: Lesson, generator: Generator, watch: Watch | None, kept: Path | None, fit: Fit
) -> Fitted:
    """Learn one member, through the prefix's network where the round has one."""
    projection = projection_of(lesson)
    if projection is None:
        return fit(_with_lambda(lesson), generator, watch, kept)
    inside = _with_lambda(entered(lesson, projection, generator))
    found = fit(inside, generator, watch, kept)
    return replace(found, state=ejected(lesson, inside, projection, found.state, generator))


def _with_lambda(lesson: Lesson) -> Lesson:
    """Return the round with the λ its rows and weights imply, where the variant averages its KL."""
    chosen = lesson.variant.summed(len(lesson.rows), lesson.start.posterior.size)
    return replace(lesson, variant=chosen)
