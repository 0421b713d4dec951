"""Kill a server in the middle of a watch, `kill -9` and all it started; let it come back later.

The worker runs the real flow. At one of its places the server is killed, while the worker stands
still there or a moment after it has gone on, in the middle of its next request. It is started again
at once, as systemd or compose would (and takes its seconds until it answers), or after the worker
may have lost patience. Then the watch is run again, as its schedule would, until nothing is left.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterable, Iterator

from chaos.forks import in_child, suspended
from chaos.points import Points
from chaos.served import Served, note_ending
from chaos.stage import SLOWEST, Run, Stage, expect

STANDS_STILL = 0.5
# Seconds until a server is started again; that it answers takes it five to thirty more.
AWAY = (0.0, 0.0, 15.0, 45.0)
# Seconds after the place at which the worker is in the middle of something else.
A_MOMENT = 0.3


def downtime(stage: Stage, seeds: Iterable[int], server: str) -> Iterator[Run]:
    """Kill a server once for each seed; the places take turns."""
    assert isinstance(stage, Served)
    order = stage.places
    random.Random(2).shuffle(order)
    for seed in seeds:
        dice = random.Random(seed)
        story, name, times = order[seed % len(order)]
        yield _without(stage, Run(seed, story), server, (name, dice.randint(1, times)), dice)


def _without(
    stage: Served, run: Run, server: str, target: tuple[str, int], dice: random.Random
) -> Run:
    began, home = time.monotonic(), stage.fresh(f"{server}-{run.seed}")
    expect(in_child(lambda _: stage.land(home, run.story), SLOWEST))
    points = Points(target, by=signal.SIGSTOP)
    worker = suspended(lambda out: stage.watch(home, points.telling(out)), SLOWEST)
    if worker.place:
        away = dice.choice(AWAY)
        run.kills.append(f"{server} killed for {away:.0f} s {worker.place}")
        _kill(stage, server, worker.pid, dice)
        time.sleep(away)
        stage.begin(server)
    ended = worker.end()
    note_ending(run, server, ended)
    stage.watch_until_done(run, server, home)
    run.violations += stage.judge(home, run.story)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run


def _kill(stage: Served, server: str, pid: int, dice: random.Random) -> None:
    """Kill a server beside a worker that stands still, and let the worker go on; or after that."""
    moment = dice.uniform(0.0, A_MOMENT)
    if dice.random() < STANDS_STILL:
        stage.kill(server)
        os.kill(pid, signal.SIGCONT)
        return
    os.kill(pid, signal.SIGCONT)
    time.sleep(moment)
    stage.kill(server)
