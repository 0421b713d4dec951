"""The two locks of a stream, kept by Prefect: one round at a time, one alias move at a time.

Both are global concurrency limits of one slot, always taken with `strict=True`: a limit that does
not exist would otherwise let everybody pass, silently. A lease that is not renewed lets a lost
process's slot go; that is why the alias move checks again what it replaces (the registry does).

A server that is away while a lock is held ends nothing: hours of training are kept, a move is
finished, and what another process did meanwhile is found by that check.

A slot that a server's death left taken, with no lease that would let it go, is found by whoever
waits for it (`flows/holders.py`): a new limit then takes the old one's place.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from uuid import UUID

from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.holders import PREFIX, UNHELD, Vigil, said_to_hold
from flows.reach import asking, away, unreachable, where_it_answers

logger = logging.getLogger(__name__)

# Prefect's minimum is 60 s. A lost process blocks its stream no longer than this.
LEASE_SECONDS = 60.0
# Seconds between two looks at who holds a lock that is waited for.
LOOK_EVERY = 15.0
# Seconds a move waits for another, which takes some: long enough to find out that there is none.
PATIENCE = UNHELD + 60.0
# Seconds in which a lock that is being replaced is there again.
BEING_REPLACED = 1.0


def round_limit(stream: str) -> str:
    """Return the name of the limit that serialises the rounds of `stream`."""
    return f"{PREFIX}round-{stream}"


def promotion_limit(stream: str) -> str:
    """Return the name of the limit that serialises the alias moves of `stream`."""
    return f"{PREFIX}promote-{stream}"


def ensure_limits(stream: str) -> None:
    """Create both limits of `stream`, one slot each; existing ones stay as they are.

    Raises:
        SchedulerUnreachable: the server is away.
    """
    _ensure(round_limit(stream), promotion_limit(stream))


@contextmanager
def round_lock(stream: str, timeout: float | None = None) -> Iterator[None]:
    """Hold the stream's rounds for the scope.

    Args:
        stream: the stream's name.
        timeout: seconds to wait for a running round; None waits for it to end.

    Raises:
        ConcurrencySlotAcquisitionError: the limit does not exist (see `ensure_limits`).
        SchedulerUnreachable: the server is away.
        TimeoutError: another round ran longer than `timeout`.
    """
    with _holding(round_limit(stream), timeout):
        yield


@contextmanager
def promotion_lock(stream: str, timeout: float | None = PATIENCE) -> Iterator[None]:
    """Hold the stream's alias moves for the scope.

    Raises:
        ConcurrencySlotAcquisitionError: the limit does not exist (see `ensure_limits`).
        SchedulerUnreachable: the server is away.
        TimeoutError: another move took longer than `timeout` seconds.
    """
    with _holding(promotion_limit(stream), timeout):
        yield


@contextmanager
def population_lock(group: str) -> Iterator[None]:
    """Hold the moves of a group's population for the scope; its limit is made on first use.

    Raises:
        TimeoutError: another move took longer than five minutes.
    """
    from bhpeft.registry import population_name

    name = population_name(group)
    _ensure(promotion_limit(name))
    with promotion_lock(name):
        yield


def _ensure(*limits: str) -> None:
    with asking("make a lock"), get_client(sync_client=True) as client:
        for name in limits:
            with suppress(ObjectAlreadyExists):  # Another process was faster.
                client.upsert_global_concurrency_limit_by_name(name, limit=1)


@contextmanager
def _holding(limit: str, timeout: float | None) -> Iterator[None]:
    """Hold a limit's one slot; what cannot be given back lapses with its lease."""
    begun, ended = False, None
    try:
        with ExitStack() as held:
            _take(held, limit, timeout)
            held.enter_context(said_to_hold(limit))
            begun = True
            try:
                yield
            except BaseException as problem:
                ended = problem
                raise
    except Exception as problem:
        if problem is ended or not away(problem):
            raise
        if not begun:
            raise unreachable(f"give the lock {limit}", problem) from problem
        logger.warning("%s lapses within %.0f s: %s", limit, LEASE_SECONDS, problem)
        if ended is not None:
            raise ended from None


def _take(held: ExitStack, limit: str, timeout: float | None) -> None:
    """Take a limit's one slot."""
    begun = time.monotonic()
    with _watched(limit):
        for again in (True, False):
            left = None if timeout is None else max(0.0, timeout + begun - time.monotonic())
            lock = concurrency(
                limit,
                timeout_seconds=left,
                lease_duration=LEASE_SECONDS,
                strict=True,
                raise_on_lease_renewal_failure=False,
            )
            try:
                held.enter_context(lock)
                return
            except ConcurrencySlotAcquisitionError as problem:
                # There is none in the moment in which another waiter replaces it.
                if problem.__cause__ is not None or not again:
                    raise
                time.sleep(BEING_REPLACED)


@contextmanager
def _watched(limit: str) -> Iterator[None]:
    """Look who holds a lock while the scope waits for it; replace one that nobody holds."""
    over, vigil = threading.Event(), Vigil(limit)

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            if (lost := vigil.look()) is not None:
                _replace(limit, lost)

    beside = threading.Thread(target=copy_context().run, args=(look,), daemon=True)
    beside.start()
    try:
        yield
    finally:
        over.set()
        beside.join()


def _replace(limit: str, lost: UUID) -> None:
    """Put a new limit in the place of one whose slot nobody holds.

    Only one of several waiters can delete it by its id, and whoever held it after all gives back a
    slot of the deleted one, not of the new.
    """
    with where_it_answers(f"replace the lock {limit}"):
        try:
            with get_client(sync_client=True) as client:
                client.delete_global_concurrency_limit_by_name(str(lost))
        except ObjectNotFound:
            return  # Another waiter was faster.
        _ensure(limit)
        told = get_run_logger() if runtime.flow_run.id else logger
        told.warning("%s was taken, and nobody held it: a new one is in its place", limit)
