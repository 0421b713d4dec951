"""End Prefect's server in the middle of a lock, so that a slot is taken which no lease gives back.

It takes a lock in two steps, the slot in its database and the lease on its disk, and gives one back
in two. In the milliseconds between the two it is killed here, by its own lease storage
(`leases.py`), or its leases are forgotten, and it is started again. Whoever waits for the lock must
find out whether anybody holds it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterable, Iterator

from chaos.downtime import AWAY
from chaos.forks import in_child, suspended
from chaos.points import Points
from chaos.served import Served, note_ending
from chaos.stage import SLOWEST, Run, Stage, expect
from chaos.windows import WINDOWS, folder, order

TAKING, GIVING = (f"POST concurrency_limits/{way}-with-lease" for way in ("increment", "decrement"))
# Seconds until the server has met its end: a lease runs out after 60, and is looked for every 15.
PATIENCE = 150.0


def lost_slots(stage: Stage, seeds: Iterable[int]) -> Iterator[Run]:
    """End the server in one of its windows for each seed; the windows take turns."""
    assert isinstance(stage, Served)
    windows = list(WINDOWS)
    for seed in seeds:
        run = Run(seed, stage.names[seed % len(stage.names)])
        yield _lost(stage, run, windows[seed % len(windows)], random.Random(seed))


def _lost(stage: Served, run: Run, window: str, dice: random.Random) -> Run:
    began, home = time.monotonic(), stage.fresh(f"lost-{run.seed}")
    expect(in_child(lambda _: stage.land(home, run.story), SLOWEST))
    target = dice.choice(_places(stage.undisturbed[run.story].places, window))
    points = Points(target, by=signal.SIGSTOP)
    worker = suspended(lambda out: stage.watch(home, points.telling(out)), SLOWEST)
    if worker.place:
        run.kills.append(f"Prefect's server ends: {WINDOWS[window]} · {worker.place}")
        if not _end(stage, window, worker.pid):
            run.violations.append(f"the server never came to where {WINDOWS[window]}")
        time.sleep(dice.choice(AWAY))
        stage.begin("prefect")
    ended = worker.end()
    if not (worker.place and window == "run out"):
        note_ending(run, "lost_slots", ended)
    stage.watch_until_done(run, "lost_slots", home)
    run.violations += stage.judge(home, run.story)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run


def _places(seen: dict[str, int], window: str) -> list[tuple[str, int]]:
    """Return where a worker is to stand: before it asks for a lock, or while it has its first."""
    if window in ("taken", "unlisted"):
        asking = [name for name in seen if name.startswith(f"before {TAKING}")]
        return [(name, which) for name in asking for which in range(1, seen[name] + 1)]
    names = list(seen)
    has = next(at for at, name in enumerate(names) if name.startswith(f"after {TAKING}"))
    had = next(at for at, name in enumerate(names) if name.startswith(f"before {GIVING}"))
    return [(name, 1) for name in names[has + 1 : had]]


def _end(stage: Served, window: str, worker: int) -> bool:
    """End the server in a window, beside a worker that stands still; say whether it ended."""
    leases = folder(stage.servers.home_of("prefect"))
    if window == "forgotten":
        stage.kill("prefect")
        shutil.rmtree(leases)
        leases.mkdir()
        os.kill(worker, signal.SIGCONT)
        return True
    order(leases).write_text(window, encoding="utf-8")
    # A lease runs out when the one who had it is gone.
    os.kill(worker, signal.SIGKILL if window == "run out" else signal.SIGCONT)
    until = time.monotonic() + PATIENCE
    while stage.servers.prefect.alive():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
