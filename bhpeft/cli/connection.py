"""Find the servers a command works with: the environment's, the home's, or some of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bhpeft.errors import ServerError

# Prefect's own lines and tracebacks would run through tables and progress bars; what went wrong is
# shown once, by the command, and Prefect's server keeps all of it.
QUIET_CONSOLE = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"


def quieten() -> None:
    """Keep Prefect's log off this terminal; to be called before Prefect is first imported."""
    os.environ.setdefault(QUIET_CONSOLE, "CRITICAL")


@contextmanager
def connected(home: Path, *, prefect: bool = True, mlflow: bool = True) -> Iterator[None]:
    """Make the servers known to this process for the scope, starting those that are missing.

    Args:
        home: the streams' folder.
        prefect: whether the command runs flows.
        mlflow: whether it needs the server; reading versions and moves works from the file alone.

    Raises:
        ServerError: an address in the environment does not answer, or a server does not start.
    """
    from flows.environment import applied, environment
    from flows.servers import running, serving

    quieten()
    found = running(home)
    prefect_url = os.environ.get("PREFECT_API_URL") or _api(found and found.prefect)
    mlflow_url = os.environ.get("MLFLOW_TRACKING_URI") or _api(found and found.mlflow)
    _check_prefect(prefect_url if prefect else "")
    prefect, mlflow = prefect and not prefect_url, mlflow and not mlflow_url
    with ExitStack() as scope:
        if prefect or mlflow:
            with _waiting():
                own = serving(home, prefect_port=0, mlflow_port=0, prefect=prefect, mlflow=mlflow)
                scope.enter_context(own)
        known = environment(home, prefect_url, mlflow_url)
        scope.enter_context(applied(known))
        yield


def _api(server: object) -> str:
    return str(getattr(server, "api", ""))


def _check_prefect(url: str) -> None:
    from flows.processes import answers

    if url and not answers(f"{url.rstrip('/')}/health", timeout=5):
        raise ServerError(
            "The Prefect server does not answer",
            found=f"PREFECT_API_URL={url}",
            expected="a running server",
            remedy="Start it, or unset the variable: bhpeft then starts one for the command.",
        )


@contextmanager
def _waiting() -> Iterator[None]:
    from rich.console import Console

    note = "Starting servers for this command (`bhpeft up` keeps them running) …"
    with Console(stderr=True).status(note):
        yield
