"""A training on several processes is the training of one, shared: same rows, steps and KL."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing
from torch.testing import assert_close

from bhpeft.learning.fit import Fitted, fit
from bhpeft.learning.ranks import ALONE, Ranks
from bhpeft.learning.state import AdapterState
from tests import tiny
from tests.learning import problems, rank_stories
from tests.learning.rank_stories import ROWS, SIZE, problem

# Two processes import torch and live all stories in the first test's time: half a minute on a free
# core, and on one that is shared by many closer to the usual five minutes than any other test.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which two gloo processes have left what became of each story."""
    folder = tmp_path_factory.mktemp("ranks")
    problems.table(folder, ROWS)  # once, not by both at once
    try:
        multiprocessing.spawn(rank_stories.tell, (folder,), nprocs=SIZE)
    except BaseException as problem:  # pytest's own time-out is no Exception
        for rank in range(SIZE):
            file = rank_stories.place(folder, rank)
            problem.add_note(f"rank {rank}: {file.read_text() if file.exists() else 'not met'}")
        raise
    return folder


def vectors(state: AdapterState) -> dict[str, Tensor]:
    q = state.posterior
    point = {f"point {name}": value for name, value in state.point.items()}
    precision = {f"precision {name}": value for name, value in state.precision.items()}
    return {"mean": q.mean, "rho": q.rho, **point, **precision}


def assert_as_alone(told: Path, story: str, alone: Fitted) -> None:
    together = AdapterState.load(told / story)
    for name, expected in vectors(alone.state).items():
        found = vectors(together)[name]
        assert_close(found, expected, atol=2e-4, rtol=2e-3, msg=lambda m, n=name: f"{n}: {m}")
    facts = json.loads((told / story / "facts.json").read_text())
    assert (facts["steps"], facts["epochs"]) == (alone.steps, alone.epochs)
    losses = [[one["loss"] for one in curve] for curve in (facts["curve"], alone.curve)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("story", ["same_draws", "sharded", "checkpointed"])
def test_two_ranks_with_the_same_draws_learn_what_one_process_does(
    told: Path, tmp_path: Path, story: str
) -> None:
    """KL once, N and the Fisher information of all rows; with the base whole or in shares."""
    assert_as_alone(told, story, fit(problem(tmp_path, ALONE), tiny.generator()))


def test_accumulated_minibatches_and_a_plateau_are_the_same_on_two_ranks(
    told: Path, tmp_path: Path
) -> None:
    lesson = problem(tmp_path, ALONE, accumulate=2, patience=1)
    assert_as_alone(told, "accumulated", fit(lesson, tiny.generator()))


def test_ranks_draw_apart_from_each_other_and_move_what_they_have_in_common_alike(
    told: Path,
) -> None:
    first, second = (json.loads((told / f"noise-{rank}.json").read_text()) for rank in range(SIZE))
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert first[0] != first[1]
    assert first[2] == second[2]


@pytest.mark.parametrize("story", ["own_draws", "blob"])
def test_ranks_with_draws_of_their_own_take_the_same_steps_to_another_posterior(
    told: Path, tmp_path: Path, story: str
) -> None:
    """As many steps and rows, other noise: what is learned differs, and is as good."""
    facts = json.loads((told / story / "facts.json").read_text())
    curve = facts["curve"]
    assert curve[-1]["nll"] < curve[0]["nll"]
    if story == "own_draws":
        alone = fit(problem(tmp_path, ALONE), tiny.generator())
        found = AdapterState.load(told / story).posterior
        assert facts["curve"][-1]["step"] == alone.curve[-1]["step"]
        assert not torch.equal(found.mean, alone.state.posterior.mean)


def test_a_training_on_ranks_that_was_cut_off_ends_as_if_it_never_was(told: Path) -> None:
    """Bit for bit: what is saved of the common source restores every rank's draws."""
    whole, resumed = (
        vectors(AdapterState.load(told / story)) for story in ("own_draws", "cut_off")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ranks_that_have_come_apart_by_one_bit_say_so_on_both(told: Path) -> None:
    for rank in range(SIZE):
        said = (told / f"quarrel-{rank}").read_text()
        assert "come apart" in said
        assert "the batch stays pending" in said


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_of_a_minibatch_are_all_of_it_once(tmp_path: Path, size: int) -> None:
    """Whatever the number of ranks; who has no row of its own runs one that counts for nothing."""
    table = problems.table(tmp_path, ROWS)
    whole = list(table.minibatches(4, tiny.generator()))
    shares = [
        list(table.minibatches(4, tiny.generator(), Ranks(rank, size).share))
        for rank in range(size)
    ]
    for one, *parts in zip(whole, *shares, strict=True):
        counted = [
            part["positions"][: len(range(rank, len(part["rows"]), size))].tolist()
            for rank, part in enumerate(parts)
        ]
        assert sorted(chain.from_iterable(counted)) == sorted(one["positions"].tolist())
        for part in parts:
            assert part["rows"].tolist() == one["rows"].tolist()
            assert len(part["labels"]) == len(part["input_ids"]) >= 1
