"""A lock that is taken and that nobody holds is replaced by whoever waits for it, and no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
from prefect.events import emit_event

from flows import holders, locks
from flows.locks import ensure_limits, promotion_limit, promotion_lock, round_limit, round_lock

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what shortens the time after which a lock nobody holds is replaced."""

    def within(seconds: float) -> None:
        monkeypatch.setattr(holders, "UNHELD", seconds)
        monkeypatch.setattr(locks, "LOOK_EVERY", seconds / 5)

    return within


def take(limit: str) -> None:
    """Leave a slot that no lease will give back, as a server does that dies in between."""
    with get_client(sync_client=True) as client:
        client.increment_concurrency_slots([limit], slots=1, mode="concurrency")


def found(limit: str) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(limit)


@pytest.mark.parametrize(
    ("lock", "name"), [(round_lock, round_limit), (promotion_lock, promotion_limit)]
)
def test_a_slot_without_a_holder_is_given_to_whoever_waits(
    lock: Any, name: Callable[[str], str], soon: Callable[[float], None]
) -> None:
    soon(1.0)
    ensure_limits("orphan")
    take(name("orphan"))
    lost = found(name("orphan")).id

    with lock("orphan", timeout=20):
        now = found(name("orphan"))
        assert (now.id != lost, now.active_slots, now.limit) == (True, 1, 1)
    assert found(name("orphan")).active_slots == 0


def test_two_that_find_it_at_once_hold_it_one_after_the_other(
    soon: Callable[[float], None],
) -> None:
    """It is deleted by its id: the slower one can neither free the faster one's slot nor fail."""
    soon(1.0)
    ensure_limits("both")
    take(round_limit("both"))
    spans: list[tuple[float, float]] = []

    def hold() -> None:
        with round_lock("both", timeout=30):
            begun = time.monotonic()
            time.sleep(0.5)
            spans.append((begun, time.monotonic()))

    with ThreadPoolExecutor() as pool:
        for one in [pool.submit(copy_context().run, hold) for _ in range(2)]:
            one.result(timeout=60)
    first, second = sorted(spans)
    assert first[1] <= second[0]


def test_replacing_what_another_has_replaced_leaves_the_new_one_alone() -> None:
    ensure_limits("faster")
    lost = found(round_limit("faster")).id
    locks._replace(round_limit("faster"), lost)
    with round_lock("faster"):
        held = found(round_limit("faster"))
        locks._replace(round_limit("faster"), lost)
        assert found(round_limit("faster")) == held


def test_who_held_it_after_all_gives_back_no_slot_but_its_own() -> None:
    """A lease is on the limit it was given by, not on the one of the same name."""
    ensure_limits("late")
    limit = round_limit("late")
    with round_lock("late"):
        locks._replace(limit, found(limit).id)
        take(limit)
    assert found(limit).active_slots == 1


def test_one_that_is_away_while_another_waiter_replaces_it_is_waited_for() -> None:
    """For a second; one that nobody makes then lets nobody pass."""
    ensure_limits("gone")
    limit = round_limit("gone")
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(limit)
    assert holders.Vigil(limit).look() is None
    later = threading.Timer(0.3, copy_context().run, [ensure_limits, "gone"])
    later.start()
    with round_lock("gone", timeout=20):
        assert found(limit).active_slots == 1
    later.join()


def test_a_lock_whose_holder_lives_is_left_to_it(soon: Callable[[float], None]) -> None:
    """Also where its lease was lost with the memory of a server: heartbeats say that it lives."""
    soon(12.0)  # what is sent is to be seen within five
    ensure_limits("alive")
    over = threading.Event()

    @flow(name="holding")
    def holding() -> UUID:
        with round_lock("alive"):
            beating = f"prefect.flow-run.{runtime.flow_run.id}"
            # Prefect's own come every 30 s, and its waiter's patience here is less.
            while not over.wait(1.0):
                emit_event(holders.HEARTBEAT, resource={"prefect.resource.id": beating})
        return UUID(runtime.flow_run.id)

    with ThreadPoolExecutor() as pool:
        holder = pool.submit(copy_context().run, holding)
        try:
            while not (found(round_limit("alive")).active_slots or holder.done()):
                time.sleep(0.1)
            held = found(round_limit("alive")).id
            with pytest.raises(TimeoutError):
                round_lock("alive", timeout=18).__enter__()
            assert found(round_limit("alive")).id == held
        finally:
            # Or the pool would wait for it for ever.
            over.set()
        assert tags_of(holder.result(timeout=60)) == set()


def tags_of(run: UUID) -> set[str]:
    with get_client(sync_client=True) as client:
        return set(client.read_flow_run(run).tags)


def test_a_run_says_what_it_holds_while_it_does_and_keeps_its_own_tags() -> None:
    """In a task too: a move is one, inside of the round that has the stream's lock."""
    ensure_limits("said")
    seen: list[set[str]] = []

    def note() -> None:
        seen.append(tags_of(UUID(runtime.flow_run.id)))

    @task
    def move() -> None:
        with promotion_lock("said"):
            note()

    @flow(name="saying")
    def saying() -> None:
        with round_lock("said"):
            move()
            note()
        note()

    from prefect import tags

    with tags("bhpeft", "mine"):
        saying()
    own, rounds, moves = {"bhpeft", "mine"}, "bhpeft-round-said", "bhpeft-promote-said"
    assert seen == [{*own, rounds, moves}, {*own, rounds}, own]
