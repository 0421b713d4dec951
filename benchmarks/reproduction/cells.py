"""Keep what was run: a cell is one run with its settings, its result one JSON file named by both.

A cell's name does not depend on the code, so that a run that was cut off goes on where it stopped
and claims share cells. When what a run computes changes, its edition is raised (`RUNS`) and its
cells are run again. Several processes may work on the same list: a cell is locked while it is run.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from benchmarks.budget import Skipped
from bhpeft.plugins import resolve

Result = dict[str, Any]
# Settings and a folder for tables and features in, figures out; all JSON.
Run = Callable[[Mapping[str, Any], Path], Result]

HERE = "benchmarks.reproduction.runs"
# Where a run is, and its edition: raise it when what it computes changes.
RUNS: dict[str, tuple[str, int]] = {
    "batch": (f"{HERE}.batch:run", 1),
    "rounds": (f"{HERE}.rounds:run", 1),
    "population": (f"{HERE}.population:run", 1),
    "traps": (f"{HERE}.traps:run", 1),
}


@dataclass(frozen=True)
class Cell:
    """One run with its settings.

    Attributes:
        run: a key of `RUNS`.
        params: its settings, JSON; "seed" is one of them.
    """

    run: str
    params: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Return the digest of the run, its edition and its settings."""
        parts = [self.run, RUNS[self.run][1], self.params]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Kept:
    """The folder of results.

    Attributes:
        folder: results in it, tables and features in folders of it.
    """

    folder: Path

    def find(self, cell: Cell) -> Result | None:
        """Return a cell's result; None where it has not been run."""
        try:
            text = self._file(cell).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return dict(json.loads(text)["result"])

    def write(self, cell: Cell, result: Result, seconds: float) -> None:
        """Keep a result, whole or not at all."""
        file = self._file(cell)
        known = {"run": cell.run, "params": cell.params, "seconds": round(seconds, 1)}
        with NamedTemporaryFile("w", dir=file.parent, suffix=".partial", delete=False) as desk:
            json.dump({**known, "result": result}, desk)
        os.replace(desk.name, file)

    def seconds(self, cells: Sequence[Cell]) -> float:
        """Return the CPU seconds of the cells that were run."""
        files = [self._file(cell) for cell in cells]
        return sum(json.loads(file.read_text())["seconds"] for file in files if file.exists())

    @contextmanager
    def claimed(self, cell: Cell) -> Iterator[bool]:
        """Say whether the cell is this process' to run, for a `with` block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file(cell).with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield self.find(cell) is None

    def _file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.run}-{cell.key}.json"


def work(
    cells: Sequence[Cell], kept: Kept, seconds: float, say: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Run the cells that nobody has run, one after the other; return what went wrong.

    Args:
        cells: in the order they are wanted.
        kept: where results go.
        seconds: after so many none is begun.
        say: is told of each that is done.
    """
    began, wrong = time.monotonic(), []
    for at, cell in enumerate(cells):
        if time.monotonic() - began > seconds:
            break
        with kept.claimed(cell) as mine:
            if not mine:
                continue
            start = time.process_time()
            try:
                result = _run(cell, kept.folder)
            except Skipped as reason:
                say(f"{cell.run} skipped: {reason}")
                continue
            except Exception as problem:
                wrong.append(f"{cell.run} {dict(cell.params)}: {problem!r}")
                say(f"failed: {wrong[-1]}")
                continue
            taken = time.process_time() - start
            kept.write(cell, result, taken)
            say(f"{at + 1}/{len(cells)} {cell.run} {_in_words(cell)}: {taken:.0f} s")
    return wrong


def work_apart(cells: Sequence[Cell], kept: Kept, seconds: float, workers: int) -> list[str]:
    """Run the cells in as many processes, each of one thread; return what went wrong."""
    if workers == 1:
        return work(cells, kept, seconds, _print)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts = [pool.submit(work, cells, kept, seconds, _print) for _ in range(workers)]
        return [problem for part in parts for problem in part.result()]


def _run(cell: Cell, folder: Path) -> Result:
    import torch

    torch.set_num_threads(1)
    run: Run = resolve("run", RUNS[cell.run][0], {})
    return run(cell.params, folder)


def _print(line: str) -> None:
    print(line, flush=True)


def _in_words(cell: Cell) -> str:
    plain = {k: v for k, v in cell.params.items() if not isinstance(v, dict | list)}
    recipe = cell.params.get("recipe", {})
    return " ".join(str(v) for v in [*plain.values(), recipe.get("variant", "")])
