"""A Prefect server that is away costs no round what it has, and is called by its name."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from bhpeft.errors import Diverged, SchedulerUnreachable
from flows.locks import ensure_limits, promotion_lock, round_lock
from flows.outcomes import publish
from flows.reach import away
from flows.steps import step_runner
from tests.flows.test_round import Ending

pytestmark = pytest.mark.usefixtures("prefect_server")

Lock = Callable[..., AbstractContextManager[None]]
LOCKS = pytest.mark.parametrize("lock", [round_lock, promotion_lock])


@pytest.fixture
def leave() -> Iterator[Callable[[], None]]:
    """Return what makes the server be away until the test ends: nobody listens where it was."""
    with socket.socket() as unused, ExitStack() as gone:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/api"

        def leaves() -> None:
            settings = {PREFECT_API_URL: nobody, PREFECT_CLIENT_MAX_RETRIES: 0}
            gone.enter_context(temporary_settings(updates=settings))

        yield leaves


@LOCKS
def test_a_lock_that_nobody_gives_is_named_with_what_to_do(
    lock: Lock, leave: Callable[[], None]
) -> None:
    ensure_limits("away")
    leave()
    with pytest.raises(SchedulerUnreachable, match=r"could not give the lock.*stays pending") as no:
        lock("away").__enter__()
    assert "\n" not in str(no.value)
    with pytest.raises(SchedulerUnreachable, match="could not make a lock"):
        ensure_limits("away")


@LOCKS
def test_what_was_done_under_a_lock_is_done_though_it_cannot_be_given_back(
    lock: Lock, leave: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The lease runs out by itself; failing here would repeat a move that has been made."""
    ensure_limits("kept")
    with caplog.at_level(logging.WARNING), lock("kept"):
        leave()
    assert "bhpeft-" in caplog.text
    assert "lapses within 60 s" in caplog.text


@LOCKS
def test_what_failed_under_a_lock_is_what_is_raised(lock: Lock, leave: Callable[[], None]) -> None:
    """Not that the lock could not be given back either."""
    ensure_limits("failed")

    def diverge() -> None:
        with lock("failed"):
            leave()
            raise Diverged("NaN")

    with pytest.raises(Diverged, match="NaN"):
        diverge()


def test_a_step_whose_lock_nobody_gives_is_tried_again() -> None:
    """As for a registry that is away: a restart takes half a minute."""
    tries: list[int] = []

    def conclude() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise SchedulerUnreachable("Prefect's server could not give the lock")
        return "moved"

    @flow
    def concluding() -> str:
        return str(step_runner({"conclude"}, first_delay=0.01)(conclude))

    assert concluding() == "moved"
    assert len(tries) == 3


@pytest.mark.filterwarnings("ignore:Artifact creation outside of a flow:FutureWarning")
def test_a_page_that_cannot_be_kept_fails_no_round(
    leave: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The decision is in the registry; the page only shows it."""
    leave()
    with caplog.at_level(logging.WARNING):
        publish(Ending("b1", "promoted"))
    assert "could not keep the round's page" in caplog.text


@pytest.mark.parametrize(("status", "expected"), [(500, True), (503, True), (404, False)])
def test_a_server_without_its_database_is_away_and_one_that_refuses_is_not(
    status: int, expected: bool
) -> None:
    request = httpx.Request("POST", "http://127.0.0.1/api")
    answer = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status))
    wrapped = RuntimeError("Unable to acquire")
    wrapped.__cause__ = answer
    assert (away(answer), away(wrapped), away(RuntimeError())) == (expected, expected, False)
