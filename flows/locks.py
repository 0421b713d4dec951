"""The two locks of a stream, kept by Prefect: one round at a time, one alias move at a time.

Both are global concurrency limits of one slot, always taken with `strict=True`: a limit that does
not exist would otherwise let everybody pass, silently. A lease that is not renewed lets a lost
process's slot go; that is why the alias move checks again what it replaces (the registry does).

A server that is away while a lock is held ends nothing: hours of training are kept, a move is
finished, and what another process did meanwhile is found by that check.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists

from flows.reach import asking, away, unreachable

logger = logging.getLogger(__name__)

# Prefect's minimum is 60 s. A lost process blocks its stream no longer than this.
LEASE_SECONDS = 60.0


def round_limit(stream: str) -> str:
    """Return the name of the limit that serialises the rounds of `stream`."""
    return f"bhpeft-round-{stream}"


def promotion_limit(stream: str) -> str:
    """Return the name of the limit that serialises the alias moves of `stream`."""
    return f"bhpeft-promote-{stream}"


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
def promotion_lock(stream: str, timeout: float | None = 120.0) -> Iterator[None]:
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
        TimeoutError: another move took longer than two minutes.
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
        with concurrency(
            limit,
            timeout_seconds=timeout,
            lease_duration=LEASE_SECONDS,
            strict=True,
            raise_on_lease_renewal_failure=False,
        ):
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
