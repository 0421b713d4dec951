"""A round that fails by itself is tried again later, then a person must look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bhpeft.data.batch import Batch
from bhpeft.errors import BatchError, Diverged, OutOfMemory, RegistryUnreachable, TimeLimit
from bhpeft.operation import Retry
from bhpeft.registry import Book, Failure
from bhpeft.rounds import release, set_aside_batches, turn
from bhpeft.rounds.backlog import parked
from bhpeft.rounds.turn import back_off
from tests.rounds.conftest import Chain, Steps

NOW = datetime(2026, 1, 10, tzinfo=UTC)


def fails(chain: Chain, batch: Batch, problem: BaseException) -> None:
    with pytest.raises(type(problem) if not isinstance(problem, MemoryError) else OutOfMemory):
        chain.learn(batch, Steps(stop="prepare", problem=problem))


def due(chain: Chain, later: timedelta = timedelta()) -> list[str]:
    found = turn(chain.stream, chain.registry, now=datetime.now(UTC) + later)
    return [b.batch_id for b in found.batches]


def test_a_failed_batch_waits_twice_as_long_each_time_and_is_then_parked(chain: Chain) -> None:
    """It keeps its place while it waits; parked, what came after it goes on; released, it is due.

    The attempts are counted from the registry's runs: nothing else remembers them.
    """
    batch = chain.deliver("b1", day=1)
    chain.deliver("b2", day=2)
    fails(chain, batch, Diverged("The loss is NaN"))
    found = turn(chain.stream, chain.registry)
    assert (found.batches, len(found.pending)) == ((), 2)
    assert found.why.startswith("b1 failed (Diverged) and is tried again at ")
    assert due(chain, timedelta(minutes=9)) == []
    assert due(chain, timedelta(minutes=11)) == ["b1", "b2"]

    fails(chain, batch, TimeLimit("Training took longer than its limit"))
    assert due(chain, timedelta(minutes=19)) == []
    assert due(chain, timedelta(minutes=21)) == ["b1", "b2"]

    fails(chain, batch, MemoryError())
    assert chain.waiting == due(chain) == ["b2"]
    (aside,) = set_aside_batches(chain.stream, chain.registry.book(chain.stream.name))
    assert (aside.batch_id, aside.state) == ("b1", "parked")
    assert aside.why.startswith("3 failures in a row, the last: OutOfMemory: The round ran out")

    release(chain.stream, "b1", chain.registry, by="anna", reason="a larger machine")
    assert due(chain) == ["b1", "b2"]
    assert chain.champion is None


@pytest.mark.parametrize(
    "said",
    ["CUDA out of memory. Tried to allocate 2 GiB", "DefaultCPUAllocator: can't allocate memory"],
)
def test_running_out_of_memory_is_named_whoever_says_it(chain: Chain, said: str) -> None:
    """Torch says it in a RuntimeError; another RuntimeError stays what it is."""
    batch = chain.deliver("b1")
    with pytest.raises(OutOfMemory, match=r"batch_size.*stays pending"):
        chain.learn(batch, Steps(stop="prepare", problem=RuntimeError(said)))
    with pytest.raises(RuntimeError, match="shapes"):
        chain.learn(batch, Steps(stop="prepare", problem=RuntimeError("shapes do not match")))
    kinds = [f.kind for f in chain.registry.book(chain.stream.name).failures]
    assert kinds == ["OutOfMemory", "Unexpected"]


def test_a_server_that_does_not_answer_is_no_failure_of_the_batch(chain: Chain) -> None:
    """However often the registry, the disk or a person stops a round, its batch is due at once."""
    batch = chain.deliver("b1")
    for problem in (RegistryUnreachable("nobody answers"), OSError("disk full")) * 2:
        fails(chain, batch, problem)
    fails(chain, batch, KeyboardInterrupt())
    assert chain.registry.book(chain.stream.name).failures == ()
    assert due(chain) == ["b1"]


def test_a_batch_out_of_quarantine_or_refusal_is_released_by_the_same_word(chain: Chain) -> None:
    """By id or by the digest's first letters; an unknown one is told what there is."""
    bad = chain.deliver("b1", validate=False, label="neither")
    assert chain.learn(bad).decision == "quarantined"
    with pytest.raises(BatchError, match=rf"'nope'.*one of b1 \({bad.digest[:8]}, quarantined\)"):
        release(chain.stream, "nope", chain.registry, by="anna", reason="a guess")
    assert chain.waiting == []
    was = release(chain.stream, bad.digest[:6], chain.registry, by="anna", reason="new contract")
    assert (was.state, chain.waiting) == ("quarantined", ["b1"])
    move = chain.registry.history(chain.stream.name)[-1]
    assert (move.kind, move.who, move.why) == ("release", "anna", "new contract")


@pytest.mark.parametrize(
    ("kinds", "is_parked"),
    [
        (["Died"] * 8, False),
        (["Died"] * 5 + ["Unexpected"] * 4, True),
        (["Diverged"] * 2 + ["Died"] * 2, False),
        (["Diverged"] * 2 + ["Died"] * 3, True),
    ],
)
def test_a_killed_process_or_an_unknown_error_counts_a_third(
    chain: Chain, kinds: list[str], is_parked: bool
) -> None:
    """It says little about its batch; but one that kills its process every time must stop."""
    failures = [
        Failure("sha", "b1", kind, "", NOW + timedelta(minutes=n)) for n, kind in enumerate(kinds)
    ]
    book = Book(chain.stream.name, {}, [], failures)
    assert ("sha" in parked(chain.stream, book)) is is_parked


def test_the_wait_doubles_up_to_a_day(chain: Chain) -> None:
    """It begins with 10, 20, 40 minutes."""
    chain = chain.changed(retry=Retry(back_off="10m", attempts=20))
    waits: list[Any] = [back_off(chain.stream, n).total_seconds() / 60 for n in (1, 2, 3, 12)]
    assert waits == [10, 20, 40, 24 * 60]


def test_a_release_counts_though_the_worker_that_failed_had_a_clock_that_was_ahead(
    chain: Chain,
) -> None:
    """Its failures lie in this machine's future, and would park the batch again at once."""
    batch = chain.deliver("b1", day=1)
    for _ in range(3):
        fails(chain, batch, Diverged("The loss is NaN"))
    client = chain.registry.connection.client
    ahead = datetime.now(UTC) + timedelta(hours=5)
    for run in chain.runs:
        client.set_terminated(run.info.run_id, "FAILED", int(ahead.timestamp() * 1000))
    assert chain.waiting == []
    release(chain.stream, "b1", chain.registry, by="anna", reason="a smaller learning rate")
    assert chain.waiting == due(chain) == ["b1"]
