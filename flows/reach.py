"""Tell a Prefect server that is away from every other error, and say so in our words.

A server that is restarted is away for half a minute, and so is the database behind it. Prefect's
client waits for a server it has talked to before; one that is new, as each lock's is, does not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.settings import PREFECT_API_URL

from bhpeft.errors import SchedulerUnreachable

logger = logging.getLogger(__name__)


def away(problem: BaseException | None) -> bool:
    """Say whether an error comes from a server that does not answer, or whose database does not."""
    while problem is not None:
        if isinstance(problem, httpx.HTTPStatusError):
            return problem.response.status_code >= 500
        if isinstance(problem, httpx.TransportError):
            return True
        problem = problem.__cause__
    return False


def unreachable(doing: str, problem: BaseException) -> SchedulerUnreachable:
    """Return the error for a server that is away.

    Args:
        doing: completes "could not …".
        problem: what came instead of an answer.
    """
    cause = problem.__cause__ or problem
    return SchedulerUnreachable(
        f"Prefect's server at {PREFECT_API_URL.value()} could not {doing}",
        found=" ".join(f"{type(cause).__name__}: {cause}".split())[:200],
        remedy="Start it, or the database behind it; the batch stays pending and the next look "
        "of the stream's watch goes on.",
    )


@contextmanager
def asking(doing: str) -> Iterator[None]:
    """Name a server that is away while it is asked to do something.

    Raises:
        SchedulerUnreachable: it is.
    """
    try:
        yield
    except Exception as problem:
        if not away(problem):
            raise
        raise unreachable(doing, problem) from problem


@contextmanager
def where_it_answers(doing: str) -> Iterator[None]:
    """Do what may be left out where the server is away."""
    try:
        yield
    except Exception as problem:
        if not away(problem):
            raise
        logger.warning("%s", unreachable(doing, problem))
