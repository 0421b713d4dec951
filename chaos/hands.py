"""Move the champion by hand in the middle of a round, as somebody in MLflow's own page would.

The worker is suspended at a place; a hand moves the alias to another version that has been
champion, or takes it away; the worker goes on without knowing. Whatever it had decided rests on a
champion that is not there any more, so it must let go, and the stream must end where it would have
ended: the same batches learned, the same posteriors.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from chaos import stories
from chaos.forks import in_child, suspended
from chaos.points import Points
from chaos.stage import SLOWEST, Run, Stage, attempt, go_on, tell
from chaos.world import opened
from chaos.zombies import BETWEEN


def hands(stage: Stage, seeds: Iterable[int]) -> Iterator[Run]:
    """Move the alias once for each seed; the places take turns."""
    order = [place for place in stage.places if place[1].startswith(BETWEEN)]
    random.Random(0).shuffle(order)
    for seed in seeds:
        dice = random.Random(seed)
        story, name, times = order[seed % len(order)]
        # The last time, when there is most that can be moved.
        yield _moved(stage, Run(seed, story), (name, times), dice)


def _moved(stage: Stage, run: Run, target: tuple[str, int], dice: random.Random) -> Run:
    began, home = time.monotonic(), stage.fresh(f"moved-{run.seed}")
    points = Points(target, without=stories.left_out(run.story), by=signal.SIGSTOP)
    worker = suspended(
        lambda out: attempt(lambda: tell(home, run.story, points.telling(out))), SLOWEST
    )
    if worker.place:
        ended = in_child(lambda _: _hand(home, dice.random()), SLOWEST)
        if isinstance(ended.said, str):
            run.kills.append(f"{ended.said} by hand {worker.place}")
        elif ended.said is not None:
            run.violations.append(f"the hand failed: {ended.said}")
        os.kill(worker.pid, signal.SIGCONT)
    ended = worker.end()
    if ended.said is not None and "error" in ended.said:
        run.violations.append(f"after the hand: {ended.said['error']}")
    go_on(home, run, (("drain",),))
    run.violations += stage.judge(home, run.story)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run


def _hand(home: Path, chance: float) -> str | None:
    """Move the alias to where it has been before, or take it away; return which."""
    world = opened(home)
    moves = [move for move in world.registry.history("chaos") if move.moves_champion]
    if not moves:
        return None
    at, client = world.registry.champion("chaos"), world.registry.connection.client
    been = sorted({str(move.to_version) for move in moves} - {str(at.number) if at else ""})
    if chance < 0.3 or not been:
        client.delete_registered_model_alias("chaos", "champion")
        return "alias taken away"
    client.set_registered_model_alias("chaos", "champion", been[int(chance * 100) % len(been)])
    return "alias moved back"
