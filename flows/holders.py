"""Who holds a lock, and which lock is taken though nobody holds it.

Prefect's server keeps a lock in two places: its slot in the database, its lease in the lease
storage. Killed between the two writes, or restarted with its leases in memory, it leaves a slot
that no lease gives back, and its API shows no leases. So whoever holds a lock says so: its flow run
has the lock's name for a tag, and sends heartbeats as long as it lives. A slot that stays taken
while no such run sends any belongs to nobody.

Nothing here is read from a clock other than the waiter's own, nor from a run's state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventResourceFilter,
)
from prefect.exceptions import ObjectNotFound

from flows.reach import where_it_answers

# What every lock's name begins with.
PREFIX = "bhpeft-"
HEARTBEAT = "prefect.flow-run.heartbeat"

# Seconds. A holder says so within two requests to the server, each of 60 s at most; a lease that
# was written and never renewed is taken back after 60 s and the 15 s in which the server looks for
# such; a heartbeat comes every 30 s, or 180 s where somebody has left Prefect's own rhythm.
UNHELD = 240.0

# An event's time is its sender's, whose clock may be wrong.
ANY_TIME = EventOccurredFilter(
    since=datetime(1970, 1, 1, tzinfo=UTC), until=datetime(9999, 1, 1, tzinfo=UTC)
)

# Which flow run of this process holds what.
_held: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("held", default=())


@contextmanager
def said_to_hold(limit: str) -> Iterator[None]:
    """Let everybody know for the scope that this flow run holds a lock.

    Outside of a flow there is nobody to vouch for it. Where the server is away in the end the tag
    stays, and says no more than that the run held it when last heard of.
    """
    run = runtime.flow_run.id
    if run is None:
        yield
        return
    token = _held.set((*_held.get(), (run, limit)))
    try:
        _say(run)
        yield
    finally:
        _held.reset(token)
        with where_it_answers(f"note that {limit} is given back"):
            _say(run)


def _say(run: str) -> None:
    others = [tag for tag in runtime.flow_run.tags if not tag.startswith(PREFIX)]
    held = [limit for owner, limit in _held.get() if owner == run]
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(run), tags=[*others, *held])


@dataclass(frozen=True)
class Seen:
    """What is to be seen of a lock.

    Attributes:
        id: of the limit; one that takes its place has another.
        taken: whether all its slots are.
        holders: the flow runs that say they hold it, dead ones too.
        heartbeats: how many these have sent.
    """

    id: UUID
    taken: bool
    holders: frozenset[UUID]
    heartbeats: int


class Vigil:
    """Looks at a lock while its waiter waits, until it is sure that nobody holds it."""

    def __init__(self, limit: str):
        self._limit = limit
        self._seen: Seen | None = None
        self._since = time.monotonic()

    def look(self) -> UUID | None:
        """Return the limit's id if it is taken and nobody has held it for `UNHELD` seconds."""
        seen = None
        # There is none for the moment in which another waiter replaces it.
        with where_it_answers(f"say who holds {self._limit}"), suppress(ObjectNotFound):
            seen = see(self._limit)
        if seen is None or seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        lost = seen and seen.taken and time.monotonic() - self._since >= UNHELD
        return seen.id if seen and lost else None


def see(limit: str) -> Seen:
    """Look at a lock.

    Raises:
        ObjectNotFound: there is none of that name.
    """
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[limit]))
    newest = FlowRunSort.EXPECTED_START_TIME_DESC
    with get_client(sync_client=True) as client:
        found = client.read_global_concurrency_limit_by_name(limit)
        runs = client.read_flow_runs(flow_run_filter=tagged, sort=newest)
        holders = frozenset(run.id for run in runs)
        taken = found.active_slots >= found.limit
        return Seen(found.id, taken, holders, _heartbeats(client, holders))


def _heartbeats(client: SyncPrefectClient, runs: frozenset[UUID]) -> int:
    if not runs:
        return 0
    resources = [f"prefect.flow-run.{run}" for run in sorted(runs)]
    sent = EventFilter(
        occurred=ANY_TIME,
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=resources),
    )
    return client.read_events(sent, limit=1).total
