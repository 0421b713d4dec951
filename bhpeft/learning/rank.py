"""One process of a training on several: `torchrun … -m bhpeft.learning.rank FOLDER`.

`bhpeft.learning.torchrun` starts it. It takes a problem over from the folder and learns it with the
others; rank 0 hands back what was learned and says how far it is. The process ends with the one
that started it, whose end of the standard input it holds: a round that is killed leaves nobody
training.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from bhpeft.errors import BhpeftError
from bhpeft.learning import machines
from bhpeft.learning.fit import Watch, fit
from bhpeft.learning.handover import hand_back, taken_over
from bhpeft.learning.ranks import joined

PROGRESS, ERROR = "progress.json", "error-{rank}.json"
# Progress is looked at twice a second.
EVERY = 0.5


def main(folder: Path) -> None:
    """Learn the problem in `folder` with the other ranks."""
    _end_with_parent()
    with _telling(folder), joined() as ranks, _telling_the_first(folder):
        if machines.elsewhere():
            machines.bring(folder)
        lesson, generator, kept = taken_over(folder, ranks)
        watch = _written(folder / PROGRESS) if ranks.rank == 0 else None
        fitted = fit(lesson, generator, watch, kept)
        if ranks.rank == 0:
            hand_back(fitted, generator, folder)


def _end_with_parent() -> None:
    def wait() -> None:
        os.read(0, 1)  # nothing is ever written: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)  # the others' gradients may be waited for

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Leave a word about what ends this process, for the one that started it."""
    try:
        yield
    except Exception as problem:
        _replace(folder / ERROR.format(rank=os.environ["RANK"]), _said_of(problem))
        raise


@contextmanager
def _telling_the_first(folder: Path) -> Iterator[None]:
    """Bring a word about what ends a rank of another machine to the folder of the round's.

    While the ranks are connected: whoever loses the connection finds the word there already.
    """
    try:
        yield
    except Exception as problem:
        if machines.elsewhere():
            try:
                _bring_word(folder, problem)
            except dist.DistError as lost:
                problem.add_note(f"What ended ranks of other machines is not known: {lost}")
        raise


def _bring_word(folder: Path, problem: Exception) -> None:
    if os.environ["GROUP_RANK"] != "0":
        machines.leave_word(_said_of(problem))
        return
    for rank, said in machines.words_left().items():
        _replace(folder / ERROR.format(rank=rank), said)


def _said_of(problem: Exception) -> str:
    parts = ("what", "found", "expected", "remedy")
    known = isinstance(problem, BhpeftError)
    return json.dumps(
        {
            "kind": type(problem).__name__,
            "parts": {part: getattr(problem, part) for part in parts} if known else None,
            "text": " ".join(str(problem).split()),
        }
    )


def _written(path: Path) -> Watch:
    last = 0.0

    def watch(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > EVERY:
            _replace(path, json.dumps([done, total]))
            last = time.monotonic()

    return watch


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
