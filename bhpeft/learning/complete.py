"""Learn a batch completely: every member of an ensemble, then what the variant does afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Generator

from bhpeft.learning.finishes import FINISHES, Selection
from bhpeft.learning.fit import Fitted, Watch, fit
from bhpeft.learning.members import joined, member
from bhpeft.learning.problem import Task

# As `bhpeft.learning.fit.fit`.
Fit = Callable[[Task, Generator, Watch | None, Path | None], Fitted]


def complete(
    task: Task,
    generator: Generator,
    selection: Selection,
    watch: Watch | None = None,
    kept: Path | None = None,
    fit: Fit = fit,
) -> Fitted:
    """Learn one batch with all that its variant asks for.

    Args:
        task: the round; its start has the variant's members.
        generator: the source of draws and orders, of one member after the other.
        selection: rows kept for choices that no gate looks at.
        watch: called after each step, for each member anew.
        kept: the folder where a long training is saved: the member's that is being trained.
        fit: what trains a member, in this process or on several.

    Raises:
        FitError: as for `bhpeft.learning.fit.fit`.
        ConfigError: the finish has nothing to work on.
    """
    count = task.start.spec.members
    found = [
        fit(replace(task, start=member(task.start, index)), generator, watch, kept)
        for index in range(count)
    ]
    whole = replace(
        found[0],
        state=joined([one.state for one in found]),
        steps=sum(one.steps for one in found),
        seconds=sum(one.seconds for one in found),
    )
    if not task.variant.finish:
        return whole
    return replace(whole, state=FINISHES[task.variant.finish](whole.state, task, selection))
