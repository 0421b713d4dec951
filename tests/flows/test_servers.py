from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bhpeft.errors import ServerError
from flows import processes
from flows.environment import applied, environment
from flows.servers import Server, record_file, running, start_servers, stop_leftovers

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[processes.Child]]:
    """Collect children, and end whatever a failing test leaves of them."""
    children: list[processes.Child] = []
    yield children
    for child in children:
        processes.stop(child.pid, timeout=1)


def python(tmp_path: Path, code: str, *arguments: str) -> processes.Child:
    command = [sys.executable, "-c", code, *arguments]
    return processes.start("thing", command, {}, tmp_path / "thing.log")


def dead_pid() -> int:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


def record(home: Path, owner: int, pid: int) -> None:
    entry = Server("prefect", pid, "prefect.log", "prefect 43210", "http://127.0.0.1:43210")
    record_file(home).parent.mkdir(parents=True)
    record_file(home).write_text(json.dumps({"owner": owner, "prefect": vars(entry)}))


def await_file(path: Path) -> str:
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()


def test_a_server_that_does_not_come_up_shows_its_logs_last_lines(tmp_path: Path, started: list):
    """The person on call reads the reason without looking for the file."""
    child = python(tmp_path, "raise SystemExit('no such table: alembic')")
    started.append(child)

    with pytest.raises(ServerError, match="no such table: alembic"):
        processes.await_answer(child, "http://127.0.0.1:9/health", timeout=20)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, started: list):
    """A hanging start ends with an error, not with a hanging command."""
    child = python(tmp_path, SLEEP)
    started.append(child)

    with pytest.raises(ServerError, match="no answer"):
        processes.await_answer(child, "http://127.0.0.1:9/health", timeout=0.5)


def test_stopping_reaches_a_grandchild_in_a_session_of_its_own(tmp_path: Path, started: list):
    """Prefect starts some runs in a new session, which a signal to the group does not reach."""
    note = tmp_path / "pid"
    child = python(
        tmp_path,
        "import pathlib, subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
        f"pathlib.Path({str(note)!r}).write_text(str(p.pid))\n"
        "time.sleep(60)",
    )
    started.append(child)
    grandchild = int(await_file(note))
    assert processes.alive(grandchild)

    processes.stop(child.pid)

    assert not processes.alive(child.pid)
    assert not processes.alive(grandchild)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, started: list):
    """`up` must end within seconds whatever its children do."""
    note = tmp_path / "ready"
    child = python(
        tmp_path,
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(note)!r}).write_text('yes')\n"
        "time.sleep(60)",
    )
    started.append(child)
    await_file(note)

    processes.stop(child.pid, timeout=0.5)

    assert not processes.alive(child.pid)


def test_servers_whose_owner_died_are_stopped(tmp_path: Path, started: list):
    """Kill -9 of `bhpeft up` leaves servers; the next command cleans up."""
    server = python(tmp_path, SLEEP, "prefect", "43210")
    started.append(server)
    record(tmp_path, owner=dead_pid(), pid=server.pid)

    assert stop_leftovers(tmp_path) == ["prefect"]

    assert not processes.alive(server.pid)
    assert not record_file(tmp_path).exists()


def test_a_process_that_only_took_the_number_is_left_alone(tmp_path: Path, started: list):
    """Process ids are used again: what runs under ours may be anything."""
    stranger = python(tmp_path, SLEEP, "somebody-else")
    started.append(stranger)
    record(tmp_path, owner=dead_pid(), pid=stranger.pid)

    assert stop_leftovers(tmp_path) == []

    assert processes.alive(stranger.pid)


def test_servers_of_a_living_owner_are_not_started_twice(tmp_path: Path, started: list):
    """Two servers on one SQLite file would lock each other out."""
    server = python(tmp_path, SLEEP, "prefect", "43210")
    started.append(server)
    record(tmp_path, owner=os.getpid(), pid=server.pid)

    with pytest.raises(ServerError, match="run already"):
        start_servers(tmp_path)
    assert processes.alive(server.pid)


def test_a_given_port_that_is_taken_is_an_error(tmp_path: Path):
    """A server somewhere else than asked for would not be found."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ServerError, match=f"Port {port} is taken"):
            start_servers(tmp_path, prefect_port=port)
    assert running(tmp_path) is None


def test_a_broken_record_is_named(tmp_path: Path):
    """A half-written file is an error with a remedy, not a traceback."""
    record_file(tmp_path).parent.mkdir(parents=True)
    record_file(tmp_path).write_text('{"owner": 1, "prefect": ')

    with pytest.raises(ServerError, match=r"servers\.json"):
        running(tmp_path)


def test_the_environment_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a scope sets is gone after it; what was there before is back."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://before")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)

    with applied(environment(tmp_path, "http://p/api", "http://m")):
        from prefect.settings import PREFECT_API_URL

        assert os.environ["MLFLOW_TRACKING_URI"] == "http://m"
        assert PREFECT_API_URL.value() == "http://p/api"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://before"
    assert "PREFECT_API_URL" not in os.environ


def test_telemetry_is_off_for_every_process(tmp_path: Path):
    """DO_NOT_TRACK=1 alone does not silence MLflow."""
    variables = environment(tmp_path)

    assert variables["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert variables["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert variables["DO_NOT_TRACK"] == "1"
