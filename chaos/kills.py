"""Kill -9 at every place of every story, run it again, look at what is left.

First each story is told once undisturbed: its places are counted and its posteriors kept. Then
each run takes one place, dies there, perhaps once more on the way back, and must end where the
undisturbed story ended: the same batches in the same state, and the champion's chain the same
posteriors, bit for bit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator

from chaos import stories
from chaos.forks import in_child
from chaos.points import Points
from chaos.stage import SLOWEST, Run, Stage, tell

SECOND_KILL = 0.35
RANDOM_MOMENT = 0.15

Target = tuple[str, int]


def kills(stage: Stage, seeds: Iterable[int]) -> Iterator[Run]:
    """Run one story for each seed; the places take turns, in an order that is always the same."""
    order = stage.places
    random.Random(0).shuffle(order)
    for seed in seeds:
        dice = random.Random(seed)
        story, name, times = order[seed % len(order)]
        yield _killed(stage, Run(seed, story), (name, dice.randint(1, times)), dice)


def _killed(stage: Stage, run: Run, target: Target | None, dice: random.Random) -> Run:
    began, moment = time.monotonic(), 0.0
    home = stage.fresh(f"killed-{run.seed}")
    if dice.random() < RANDOM_MOMENT:
        target, moment = None, dice.uniform(0.05, stage.undisturbed[run.story].seconds)
    while True:
        points = Points(target, without=stories.left_out(run.story))
        ended = in_child(
            lambda out, p=points: tell(home, run.story, p.telling(out)), SLOWEST, moment
        )
        if not ended.killed:
            break
        run.kills.append(ended.said or f"signal {ended.killed}")
        target, moment = _next(stage, run, dice), 0.0
    if ended.said is not None:
        run.violations.append(f"running it again failed: {ended.said['error']}")
    run.violations += stage.judge(home, run.story)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run


def _next(stage: Stage, run: Run, dice: random.Random) -> Target | None:
    if len(run.kills) > 1 or dice.random() > SECOND_KILL:
        return None
    places = stage.undisturbed[run.story].places
    name = dice.choice(list(places))
    return name, dice.randint(1, places[name])
