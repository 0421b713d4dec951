"""Suspend a worker at a place until others have gone on without it, then wake it up.

That is what a lease that ran out looks like: nobody died, the lock went to somebody else, and the
first holder does not know. It may end in an error of ours or find its work done; what it may not do
is move anything. No transaction is suspended: its database would wait for it, as it should.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from chaos import stories
from chaos.forks import suspended
from chaos.points import Points
from chaos.stage import SLOWEST, Run, Stage, go_on, tell

# A place between two calls, outside of every transaction.
BETWEEN = ("before ", "after ", "rename ", "write ")


def zombies(stage: Stage, seeds: Iterable[int]) -> Iterator[Run]:
    """Suspend one worker for each seed; the places take turns."""
    order = [place for place in stage.places if place[1].startswith(BETWEEN)]
    random.Random(0).shuffle(order)
    for seed in seeds:
        dice = random.Random(seed)
        story, name, times = order[seed % len(order)]
        yield _suspended(stage, Run(seed, story), (name, dice.randint(1, times)))


def _suspended(stage: Stage, run: Run, target: tuple[str, int]) -> Run:
    began, home = time.monotonic(), stage.fresh(f"suspended-{run.seed}")
    points = Points(target, without=stories.left_out(run.story), by=signal.SIGSTOP)
    zombie = suspended(lambda out: _tell_or_refuse(home, run.story, points.telling(out)), SLOWEST)
    if zombie.place:
        run.kills.append(f"suspended {zombie.place}")
        go_on(home, run)
        os.kill(zombie.pid, signal.SIGCONT)
    ended = zombie.end()
    if ended.said is not None:
        run.violations.append(f"the zombie failed: {ended.said}")
    go_on(home, run, (("drain",),))
    run.violations += stage.judge(home, run.story, timed=False)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run


def _tell_or_refuse(home: Path, story: str, points: Points) -> None:
    from bhpeft.errors import BhpeftError

    try:
        tell(home, story, points)
    except BhpeftError:
        # An error of ours is what a zombie is to get; one before it woke is none.
        if not points.woken:
            raise
