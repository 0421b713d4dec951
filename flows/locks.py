"""The two locks of a stream, kept by Prefect: one round at a time, one alias move at a time.

Both are global concurrency limits of one slot, always taken with `strict=True`: a limit that does
not exist would otherwise let everybody pass, silently. A lease that is not renewed lets a lost
process's slot go; that is why the alias move checks again what it replaces (the registry does).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

# Prefect's minimum is 60 s. A lost process blocks its stream no longer than this.
LEASE_SECONDS = 60.0


def round_limit(stream: str) -> str:
    """Return the name of the limit that serialises the rounds of `stream`."""
    return f"bhpeft-round-{stream}"


def promotion_limit(stream: str) -> str:
    """Return the name of the limit that serialises the alias moves of `stream`."""
    return f"bhpeft-promote-{stream}"


def ensure_limits(stream: str) -> None:
    """Create both limits of `stream`, one slot each; existing ones stay as they are."""
    with get_client(sync_client=True) as client:
        for name in (round_limit(stream), promotion_limit(stream)):
            client.upsert_global_concurrency_limit_by_name(name, limit=1)


@contextmanager
def round_lock(stream: str, timeout: float | None = None) -> Iterator[None]:
    """Hold the stream's rounds for the scope.

    A lease that cannot be renewed (the server restarts) does not end the round: hours of training
    are kept, and the promotion lock and the registry's check of the parent still fence the result.

    Args:
        stream: the stream's name.
        timeout: seconds to wait for a running round; None waits for it to end.

    Raises:
        ConcurrencySlotAcquisitionError: the limit does not exist (see `ensure_limits`).
        TimeoutError: another round ran longer than `timeout`.
    """
    with concurrency(
        round_limit(stream),
        timeout_seconds=timeout,
        lease_duration=LEASE_SECONDS,
        strict=True,
        raise_on_lease_renewal_failure=False,
    ):
        yield


@contextmanager
def promotion_lock(stream: str, timeout: float | None = 120.0) -> Iterator[None]:
    """Hold the stream's alias moves for the scope; ends it when the lease is lost.

    Raises:
        ConcurrencySlotAcquisitionError: the limit does not exist (see `ensure_limits`).
        TimeoutError: another move took longer than `timeout` seconds.
    """
    with concurrency(
        promotion_limit(stream), timeout_seconds=timeout, lease_duration=LEASE_SECONDS, strict=True
    ):
        yield


@contextmanager
def population_lock(group: str) -> Iterator[None]:
    """Hold the moves of a group's population for the scope; its limit is made on first use.

    Raises:
        TimeoutError: another move took longer than two minutes.
    """
    from bhpeft.registry import population_name

    name = population_name(group)
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(promotion_limit(name), limit=1)
    with promotion_lock(name):
        yield
