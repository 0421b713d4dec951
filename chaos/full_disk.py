"""Let the disk be full in the middle of a story, for real: a home on a disk that is too small.

The seed says how many bytes fit; whatever writes the byte after them gets ENOSPC, be it SQLite, a
model's file or a manifest. The story is begun again twice while the disk is full, as a schedule
would, then there is room again and it must come to its end by itself.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from chaos import stories
from chaos.forks import in_child
from chaos.points import Points
from chaos.stage import SLOWEST, Run, Stage, attempt, go_on, size_of, tell

ATTEMPTS = 2
ROOMY = 256 << 20


def full_disk(stage: Stage, seeds: Iterable[int]) -> Iterator[Run]:
    """Fill the disk once for each seed; the stories take turns."""
    for seed in seeds:
        yield _filled(stage, Run(seed, stage.names[seed % len(stage.names)]), random.Random(seed))


def unable() -> str:
    """Return what is missing, or nothing."""
    if os.geteuid() or not shutil.which("mount"):
        return "a disk of its own needs root and mount"
    return ""


def _filled(stage: Stage, run: Run, dice: random.Random) -> Run:
    began = time.monotonic()
    room = int(dice.random() * stage.undisturbed[run.story].grown)
    home = stage.place(f"full-{run.seed}")
    home.mkdir()
    _mount(home, ROOMY)
    try:
        stage.fresh(home.name)
        _mount(home, size_of(home) + room, "remount")
        for _ in range(ATTEMPTS):
            points = Points(without=stories.left_out(run.story))
            ended = in_child(lambda _, p=points: attempt(lambda: tell(home, run.story, p)), SLOWEST)
            if ended.said is None:
                break  # It fitted.
            if "error" in ended.said:
                run.violations.append(f"on a full disk: {ended.said['error']}")
                break
            run.kills.append(f"disk full ({ended.said['stopped']}) · {ended.said['at']}")
        _mount(home, ROOMY, "remount")
        go_on(home, run)
        run.violations += stage.judge(home, run.story)
    finally:
        subprocess.run(["umount", str(home)], check=True)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run


def _mount(home: Path, size: int, *how: str) -> None:
    options = ",".join([*how, f"size={size}"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", str(home)], check=True)
