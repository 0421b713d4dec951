"""Start two schedulers at once: two of Prefect's servers, each with a watch of the same stream.

Each server keeps its own locks, so each watch believes that it is alone; they meet in MLflow, on
the same champion. That is a scheduler restored from a backup beside the one it was to replace.
Every other seed gives both watches to one server instead, whose lock lets one in at a time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator

from chaos.forks import begun, in_child
from chaos.points import Points
from chaos.served import Served, note_ending
from chaos.stage import SLOWEST, Run, Stage, expect

WHERE = {1: "two watches at one scheduler", 2: "two schedulers"}


def schedulers(stage: Stage, seeds: Iterable[int]) -> Iterator[Run]:
    """Start two at once for each seed; the seed says how long after the first the second."""
    assert isinstance(stage, Served)
    for seed in seeds:
        run = Run(seed, stage.names[seed % len(stage.names)])
        yield _together(stage, run, 2 - seed % 2, random.Random(seed))


def _together(stage: Served, run: Run, servers: int, dice: random.Random) -> Run:
    began, home = time.monotonic(), stage.fresh(f"schedulers-{run.seed}")
    length = stage.undisturbed[run.story].seconds
    late = dice.choice([0.0, dice.uniform(0.0, length)])
    expect(in_child(lambda _: stage.land(home, run.story), SLOWEST))
    other = stage.another_prefect() if servers == 2 else stage.servers.env["PREFECT_API_URL"]
    run.kills.append(f"{WHERE[servers]} at once")
    pair = [begun(lambda _: stage.watch(home, Points()), SLOWEST)]
    time.sleep(late)
    pair.append(begun(lambda _: stage.watch(home, Points(), other), SLOWEST))
    for ended in [watch.end() for watch in pair]:
        note_ending(run, WHERE[servers], ended)
    stage.watch_until_done(run, WHERE[servers], home)
    # Where each believed that it is alone their rounds may overlap; one of them counted.
    run.violations += stage.judge(home, run.story, timed=servers == 1)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run
