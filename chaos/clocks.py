"""Let every worker's clock be wrong, each by another amount, while workers die one after another.

libfaketime stands between the process and the kernel's clock, so the product, Python, SQLite and
MLflow all read the same wrong time; what measures durations is left alone. Order may therefore
never be read from a clock: neither which batch comes first, nor which move was last, nor what was
refused after it was released.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from chaos import stories
from chaos.forks import in_child
from chaos.points import Points
from chaos.stage import SLOWEST, Run, Stage, tell

LIBRARY = "faketime/libfaketime.so.1"
FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib")
# Offsets are read from FAKETIME each time, so that a fork may have one of its own.
SETTINGS = {
    "FAKETIME": "+0",
    "FAKETIME_NO_CACHE": "1",
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "NO_FAKE_STAT": "1",
}
# In seconds: from what no one notices, over a wrong zone and a wrong day, to months. A batch whose
# rows are of a time after it landed is quarantined, so whoever lands them is not further behind.
OFFSETS = (1, -1, 90, -90, 3 * 3600, -3 * 3600, 26 * 3600, -26 * 3600, 100 * 86400, -100 * 86400)
DEATHS = 2


def clocks(stage: Stage, seeds: Iterable[int]) -> Iterator[Run]:
    """Tell a story by workers with wrong clocks once for each seed; the places take turns."""
    order = stage.places
    random.Random(1).shuffle(order)
    for seed in seeds:
        yield _skewed(stage, seed, order, random.Random(seed))


def unable() -> str:
    """Return what is missing, or nothing."""
    return "" if _library() else "libfaketime is not installed (apt-get install libfaketime)"


def variables() -> dict[str, str]:
    """Return what this program must have been started with."""
    return {"LD_PRELOAD": str(_library()), **SETTINGS}


def _library() -> Path | None:
    return next((path for f in FOLDERS if (path := Path(f, LIBRARY)).exists()), None)


def _skewed(stage: Stage, seed: int, order: list[tuple[str, str, int]], dice: random.Random) -> Run:
    began = time.monotonic()
    story, name, times = order[seed % len(order)]
    run, home = Run(seed, story), stage.fresh(f"skewed-{seed}")
    target: tuple[str, int] | None = (name, dice.randint(1, times))
    while True:
        offset, points = dice.choice(OFFSETS), Points(target, without=stories.left_out(story))
        ended = in_child(
            lambda out, o=offset, p=points: _tell_at(o, home, story, p.telling(out)), SLOWEST
        )
        run.kills.append(f"clock {offset:+d} s · {ended.said or 'to the end'}")
        if not ended.killed:
            break
        places = stage.undisturbed[story].places
        again = dice.choice(list(places))
        target = (again, 1) if len(run.kills) < DEATHS else None
    if ended.said is not None:
        run.violations.append(f"with a wrong clock: {ended.said['error']}")
    run.violations += stage.judge(home, story, timed=False)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run


def _tell_at(offset: int, home: Path, story: str, points: Points) -> None:
    before = time.time()
    os.environ["FAKETIME"] = f"{offset:+d}"
    if abs(time.time() - before - offset) > 0.5:
        raise RuntimeError("libfaketime does not reach this process")
    tell(home, story, points)
