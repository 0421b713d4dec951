"""What every process of ours is told by its environment: quiet telemetry, addresses, threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bhpeft.secrecy import SILENCE

STATE_FOLDER = ".bhpeft"

# PASSIVE: waiting threads sleep; a step takes 0.1 s instead of 0.75-1.46 s beside other processes.
# Heartbeats every 30 s let the automation in deployments.py find a lost round within 90 s.
LEASES_ON_DISK = "prefect.server.concurrency.lease_storage.filesystem"

# Leases on disk outlive a restart of the server; in memory, the default, they would be lost and
# the slots they hold never be given back.
HABITS = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES_ON_DISK,
    "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "120",
    "OMP_WAIT_POLICY": "PASSIVE",
    # What bhpeft.allocator sets too, but in a flow Prefect has begun its threads by then.
    "MALLOC_ARENA_MAX": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # What a server answers whose database is away: worth waiting for, as no answer is.
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    "PREFECT_CLI_PROMPT": "false",
}


def state_folder(home: Path) -> Path:
    """Return the folder of `home` that holds the servers' files: Prefect's, logs, the record."""
    return home.resolve() / STATE_FOLDER


def environment(home: Path, prefect_url: str = "", mlflow_url: str = "") -> dict[str, str]:
    """Return the variables a process needs to work in `home` with these servers.

    Values the user has set for a habit win; addresses and folders are always ours.
    """
    variables = {name: os.environ.get(name, value) for name, value in HABITS.items()}
    variables |= SILENCE | {
        "BHPEFT_HOME": str(home.resolve()),
        "PREFECT_HOME": str(state_folder(home) / "prefect"),
    }
    if prefect_url:
        variables["PREFECT_API_URL"] = prefect_url
    if mlflow_url:
        variables["MLFLOW_TRACKING_URI"] = mlflow_url
    return variables


@contextmanager
def applied(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the scope, for Prefect's settings too, then put them back.

    Prefect reads the environment once, when it is imported: where that has happened already its
    settings are laid over for the scope.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    with ExitStack() as scope:
        scope.callback(_put_back, before)
        if "prefect" in sys.modules:
            from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

            ours = {PREFECT_API_URL: "PREFECT_API_URL", PREFECT_HOME: "PREFECT_HOME"}
            updates = {key: variables[name] for key, name in ours.items() if name in variables}
            scope.enter_context(temporary_settings(updates=updates))
        yield


def flush_prefect() -> None:
    """Send what Prefect still holds of this process's logs and events, before its server stops."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)


def _put_back(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
