"""A training handed to torchrun comes back as if it never left, or as the error that ended it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bhpeft.errors import FitError, RanksFailed, TimeLimit
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.fit import Lesson, fit
from bhpeft.learning.handover import hand_back, hand_over, taken_back, taken_over
from bhpeft.learning.plan import Plan
from bhpeft.learning.rank import _telling
from bhpeft.learning.ranks import ALONE
from bhpeft.learning.torchrun import Torchrun, _explained
from bhpeft.learning.variants import BH_PEFT
from tests import tiny
from tests.learning import problems
from tests.learning.test_checkpoint import same

METHODS = ("lora", "adapter", "prefix")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny base on disk, which other processes can load."""
    return tiny.saved(tmp_path_factory.mktemp("base"))


@pytest.fixture
def problem(base: Path, tmp_path: Path) -> Callable[..., Lesson]:
    """Return what makes a learning problem on that base."""

    def make(**plan: Any) -> Lesson:
        asked = problems.spec(METHODS, base=str(base))
        model = build_model(asked)
        start = first_state(model, asked, BH_PEFT, problems.texts(6), tiny.generator())
        given = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "rho_learning_rate": 1.0}
        rows = problems.table(tmp_path, 21)
        return Lesson(model, start, start.prior, rows, Plan(**(given | plan)), BH_PEFT, first=True)

    return make


def test_a_problem_is_the_same_behind_the_handover(
    problem: Callable[..., Lesson], tmp_path: Path
) -> None:
    """Learned here or after it was written and read: the same bits, the generator's included."""
    lesson, here, there = problem(), tiny.generator(4), tiny.generator(4)
    direct = fit(lesson, here)
    hand_over(lesson, there, tmp_path / "desk", shard=False, kept=None)
    read, generator, kept = taken_over(tmp_path / "desk", ALONE)
    assert kept is None
    hand_back(fit(read, generator), generator, tmp_path / "desk")
    assert same(direct, taken_back(tmp_path / "desk", there))
    assert torch.equal(here.get_state(), there.get_state())


def test_rows_that_other_processes_cannot_open_are_refused(
    problem: Callable[..., Lesson], tmp_path: Path
) -> None:
    odd: Any = [1, 2]
    with pytest.raises(FitError, match=r"list.*compute\.processes to 1"):
        hand_over(replace(problem(), rows=odd), tiny.generator(), tmp_path, shard=False, kept=None)


@pytest.mark.slow
def test_torchrun_trains_and_gives_back_a_posterior(
    problem: Callable[..., Lesson], tmp_path: Path
) -> None:
    """With the base in shares, and told how far it is; from two ranks' draws, not from one's."""
    lesson, heard = problem(), []

    def told(done: int, total: int) -> None:
        heard.append((done, total))

    found = Torchrun(2, shard=True)(lesson, tiny.generator(), told, tmp_path / "kept")
    alone = fit(lesson, tiny.generator())
    assert heard[-1] == (found.steps, found.steps) == (alone.steps, alone.steps)
    assert found.curve[-1]["nll"] < found.curve[0]["nll"]
    assert not torch.equal(found.state.posterior.mean, alone.state.posterior.mean)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (TimeLimit("Training took longer", found="9 s", remedy="Raise it."), TimeLimit),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError),
        (ValueError("something else"), RanksFailed),
    ],
)
def test_what_ended_a_rank_is_raised_where_it_was_started(
    raised: Exception, expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the lost connection of the rank that waited for it, which may well speak first."""
    lost = RuntimeError("Connection closed by peer")
    for number, problem in (("1", lost), ("0", raised)):
        monkeypatch.setenv("RANK", number)
        with pytest.raises(type(problem)), _telling(tmp_path):
            raise problem
    (tmp_path / "log").write_text("")
    found = _explained(tmp_path, 1, tmp_path / "log")
    assert type(found) is expected
    if expected is not RanksFailed:
        assert str(raised).split(";")[0] in str(found)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_training_by_name(problem: Callable[..., Lesson]) -> None:
    """As the system does when memory is short: no word, and nobody left who waits for it."""
    lesson, killed = problem(epochs=2000, rho_learning_rate=1e-3), []

    def kill(done: int, _: int) -> None:
        if not killed:
            ranks = _ranks_of(os.getpid())
            killed.extend(ranks)
            os.kill(ranks[-1], 9)

    with pytest.raises(RanksFailed, match="ended without a posterior"):
        Torchrun(2)(lesson, tiny.generator(), kill)
    assert len(killed) == 2
    _await_end(killed)


@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them(
    problem: Callable[..., Lesson], tmp_path: Path
) -> None:
    """A round killed with SIGKILL leaves nobody training."""
    hand_over(problem(epochs=2000), tiny.generator(), tmp_path / "desk", shard=False, kept=None)
    script = "from tests.learning.test_torchrun import hang; hang()"
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "desk")])
    ranks: list[int] = []
    try:
        deadline = time.monotonic() + 240
        while len(ranks) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
            ranks = _ranks_of(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    assert len(ranks) == 2
    _await_end(ranks)


def hang() -> None:
    """Run the problem in a folder, in a process that a test kills."""
    Torchrun(2)._run(Path(sys.argv[1]), None)


def _ranks_of(pid: int) -> list[int]:
    """Return the ranks below a process, found by whose child they are."""
    import psutil

    children = psutil.Process(pid).children(recursive=True)
    lines = {child.pid: " ".join(child.cmdline()) for child in children}
    return [child for child, line in lines.items() if "-m bhpeft.learning.rank" in line]


def _await_end(pids: list[int]) -> None:
    import psutil

    deadline = time.monotonic() + 120
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, "a rank is still there"
        time.sleep(0.1)
