"""What two processes do together for `test_ranks`: each story's outcome is saved by rank 0.

They are run in one start of two gloo processes, since most of what that costs is importing torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator

from bhpeft.errors import RanksFailed
from bhpeft.learning.fit import Fitted, Lesson, fit
from bhpeft.learning.ranks import Ranks
from bhpeft.learning.variants import BLOB, Variant
from bhpeft.models.sharding import shard
from tests import tiny
from tests.learning import problems

SIZE = 2
# 21 rows in minibatches of 4: the last one has a single row, and rank 1 none of its own.
ROWS, METHODS = 21, ("lora", "adapter", "prefix")
PLAN = {"epochs": 2, "batch_size": 4, "max_epochs": 40}


@dataclass(frozen=True)
class SameDraws(Ranks):
    """Ranks that all draw what one process would, so that they can be held against it."""

    def source(self, generator: Generator) -> Generator:
        return generator


def problem(folder: Path, ranks: Ranks, variant: Variant | None = None, **plan: Any) -> Lesson:
    """Return the learning problem of one rank; alone it is that of one process."""
    given = {} if variant is None else {"variant": variant}
    methods = METHODS if variant is None else ("lora",)
    made = problems.lesson(folder, methods, rows=ROWS, **{**PLAN, **plan}, **given)
    return replace(made, ranks=ranks)


def same_draws(folder: Path, ranks: Ranks) -> Fitted:
    return fit(problem(folder, SameDraws(ranks.rank, ranks.size)), tiny.generator())


def accumulated(folder: Path, ranks: Ranks) -> Fitted:
    lesson = problem(folder, SameDraws(ranks.rank, ranks.size), accumulate=2, patience=1)
    return fit(lesson, tiny.generator())


def sharded(folder: Path, ranks: Ranks) -> Fitted:
    lesson = problem(folder, SameDraws(ranks.rank, ranks.size))
    shard(lesson.model)
    whole = [type(p).__name__ for layer in lesson.model.layers for p in layer.parameters()]
    assert "DTensor" in whole
    return fit(lesson, tiny.generator())


def checkpointed(folder: Path, ranks: Ranks) -> Fitted:
    lesson = problem(folder, SameDraws(ranks.rank, ranks.size), checkpointing=True)
    shard(lesson.model)
    return fit(lesson, tiny.generator())


def own_draws(folder: Path, ranks: Ranks) -> Fitted:
    return fit(problem(folder, ranks), tiny.generator())


def blob(folder: Path, ranks: Ranks) -> Fitted:
    return fit(problem(folder, ranks, BLOB), tiny.generator())


def cut_off(folder: Path, ranks: Ranks) -> Fitted:
    """Die on both ranks after five steps, and go on."""
    lesson, kept = problem(folder, ranks, save_every=1e-9), folder / "kept"

    def dies(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    try:
        fit(lesson, tiny.generator(), dies, kept)
    except KeyboardInterrupt:
        dist.barrier()
    heard: list[int] = []
    fitted = fit(lesson, tiny.generator(), lambda done, _: heard.append(done), kept)
    assert heard[0] == 6
    return fitted


STORIES: tuple[Callable[[Path, Ranks], Fitted], ...] = (
    same_draws,
    accumulated,
    sharded,
    checkpointed,
    own_draws,
    blob,
    cut_off,
)


def tell(rank: int, folder: Path) -> None:
    """Be one of two processes: live all stories, and save what rank 0 ends with."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever this machine's name resolves to
    meeting = dist.FileStore(str(folder / "meeting"), SIZE)
    # By default five minutes, in which the other must have imported torch, whatever else goes on.
    meeting.set_timeout(timedelta(minutes=15))
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=SIZE)
    ranks = Ranks(rank, SIZE)
    for story in STORIES:
        place(folder, rank).write_text(story.__name__)
        fitted = story(folder, ranks)
        if rank == 0:
            save(fitted, folder / story.__name__)
    place(folder, rank).write_text("after all stories")
    save_noise(ranks, folder)
    save_quarrel(ranks, folder)
    # Whoever closes its connections first must not take the last sum from one that is slower.
    meeting.set(f"{rank} is done", "")
    meeting.wait([f"{other} is done" for other in range(SIZE)])
    dist.destroy_process_group()


def place(folder: Path, rank: int) -> Path:
    """Return the file in which a rank writes the story it is at, for whoever asks why it failed."""
    return folder / f"place-{rank}"


def save(fitted: Fitted, folder: Path) -> None:
    fitted.state.save(folder)
    facts = {"curve": fitted.curve, "steps": fitted.steps, "epochs": fitted.epochs}
    (folder / "facts.json").write_text(json.dumps(facts))


def save_noise(ranks: Ranks, folder: Path) -> None:
    """Save the first numbers of this rank's draws."""
    common = tiny.generator()
    drawn = [torch.randn(3, generator=ranks.source(common)).tolist() for _ in range(2)]
    after = torch.randn(1, generator=common).tolist()
    (folder / f"noise-{ranks.rank}.json").write_text(json.dumps([*drawn, after]))


def save_quarrel(ranks: Ranks, folder: Path) -> None:
    """Save what each rank says of vectors that differ in one number, the last bit of it."""
    vector = torch.ones(4)
    ranks.check_same(vector)
    if ranks.rank == 1:
        vector[2] = torch.nextafter(vector[2], torch.tensor(2.0))
    try:
        ranks.check_same(vector)
        said = ""
    except RanksFailed as problem:
        said = problem.message
    (folder / f"quarrel-{ranks.rank}").write_text(said)
