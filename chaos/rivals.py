"""Let two workers learn the same stream at once, and no lock is between them.

In a fleet a Prefect limit lets one in at a time; here nobody does, which is what two workers see
who both believe that they hold it. Either may end in an error of ours, since the other was faster;
afterwards each batch must have been learned once, as by one of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from chaos import stories
from chaos.forks import begun, in_child
from chaos.points import Points
from chaos.stage import SLOWEST, Run, Stage, attempt, entered, go_on


def rivals(stage: Stage, seeds: Iterable[int]) -> Iterator[Run]:
    """Start two at once for each seed; the seed says how long after the first the second."""
    for seed in seeds:
        yield _together(stage, Run(seed, stage.names[seed % len(stage.names)]), random.Random(seed))


def _together(stage: Stage, run: Run, dice: random.Random) -> Run:
    began, home = time.monotonic(), stage.fresh(f"rivals-{run.seed}")
    length = stage.undisturbed[run.story].seconds
    late = dice.choice([0.0, dice.uniform(0.0, length)])
    landed = in_child(lambda _: _land(home, run.story), SLOWEST)
    if landed.said is not None:
        run.violations.append(f"landing failed: {landed.said}")
    pair = [begun(lambda _: _drain(home, run.story), SLOWEST)]
    time.sleep(late)
    pair.append(begun(lambda _: _drain(home, run.story), SLOWEST))
    for one in [worker.end() for worker in pair]:
        if one.said is None:
            run.kills.append("two at once · both came through")
        elif "error" in one.said:
            run.violations.append(f"one of two: {one.said['error']}")
        else:
            run.kills.append(f"two at once ({one.said['stopped']}) · {one.said['at']}")
    go_on(home, run)
    run.violations += stage.judge(home, run.story, timed=False)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run


def _land(home: Path, story: str) -> None:
    world = entered(home)
    for kind, *rest in stories.STORIES[story]:
        if kind == "land":
            world.land(*rest)


def _drain(home: Path, story: str) -> dict[str, str] | None:
    points = Points(without=stories.left_out(story))
    return attempt(lambda: entered(home).drain(points.run))
