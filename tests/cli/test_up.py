from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from bhpeft.stream_template import TEMPLATE
from flows import processes
from flows.events import tell_landed
from flows.servers import Servers, record_file, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


BHPEFT = [sys.executable, "-c", "from bhpeft.cli import app; app()"]


def bhpeft(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*BHPEFT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def write_stream(home: Path, interval: str) -> None:
    for folder in ("streams", "data_contracts"):
        (home / folder).mkdir(exist_ok=True)
    contract = home / "data_contracts" / "reviews.odcs.yaml"
    text = TEMPLATE.format(name="reviews", contract=contract.relative_to(home))
    (home / "streams" / "reviews.toml").write_text(text.replace('"5m"', f'"{interval}"'))


def await_text(log: Path, text: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def await_deployed(home: Path, log: Path, timeout: float) -> Servers:
    await_text(log, "A worker runs", timeout)
    servers = running(home)
    assert servers is not None
    return servers


def ask(api: str, path: str) -> Any:
    """POST an empty filter to the Prefect server and return its answer."""
    request = Request(f"{api}/{path}", b"{}", {"Content-Type": "application/json"})
    with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
        return json.load(answer)


def scheduled_run(api: str, timeout: float) -> dict[str, Any]:
    """Return the first run that a schedule started and that looked for batches to the end."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for run in ask(api, "flow_runs/filter"):
            # A watch that finds another one running is cancelled before it does anything.
            if run["auto_scheduled"] and run["state_type"] in ("COMPLETED", "FAILED", "CRASHED"):
                return dict(run)
        time.sleep(0.5)
    raise AssertionError(f"no scheduled run ended within {timeout} s")


def woken_run(api: str, tell: Callable[[], bool], timeout: float) -> dict[str, Any]:
    """Return the first run that an event started and that looked for batches to the end.

    It is told every ten seconds: the server takes up a trigger that was just written a moment
    later, and an event of that moment wakes nobody (which is what schedules are for).
    """
    deadline, told = time.monotonic() + timeout, 0.0
    while time.monotonic() < deadline:
        if time.monotonic() - told > 10:
            assert tell()
            told = time.monotonic()
        for run in ask(api, "flow_runs/filter"):
            woken = (run["created_by"] or {}).get("type") == "AUTOMATION"
            if woken and run["state_type"] in ("COMPLETED", "FAILED", "CRASHED"):
                return dict(run)
        time.sleep(0.5)
    raise AssertionError(f"no run was woken within {timeout} s")


def test_up_runs_schedules_until_it_is_told_to_stop(tmp_path: Path):
    """A schedule fires a real run in a worker's process, by itself; SIGTERM ends all within 15 s.

    The event of a batch that landed starts one too, long before its schedule of an hour would.
    A second `up` is refused, status and doctor use the first, and a stream whose file is gone is
    no longer watched, one that changed is watched anew. (On SQLAlchemy 2.1 the servers look healthy
    and no run ever comes.)
    """
    write_stream(tmp_path, "15s")
    log = tmp_path / "up.log"
    ports = ("--prefect-port", "0", "--mlflow-port", "0")
    with log.open("wb") as output:
        up = subprocess.Popen(
            [*BHPEFT, "up", "--home", str(tmp_path), *ports],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        servers = await_deployed(tmp_path, log, timeout=120)
        assert servers.prefect
        family = [up.pid, *processes.descendants(up.pid)]

        second = bhpeft("up", "--home", tmp_path, *ports)
        assert second.returncode == 1
        assert "run already" in second.stderr

        run = scheduled_run(servers.prefect.api, timeout=60)
        assert (run["name"], run["state_name"]) == ("reviews", "Nothing pending"), run["state"]

        status = bhpeft("status", "--home", tmp_path, "--json")
        assert json.loads(status.stdout)[0]["next_run"] is not None, status.stderr

        write_stream(tmp_path, "1h")
        await_text(log, "(1h)", timeout=20)
        run = woken_run(
            servers.prefect.api, lambda: tell_landed(tmp_path, "reviews", "b1", 30), timeout=60
        )
        assert (run["name"], run["state_name"]) == ("reviews", "Nothing pending"), run["state"]

        doctor = bhpeft("doctor", "--home", tmp_path, "--json")
        checks = {check["name"]: check for check in json.loads(doctor.stdout)}
        assert checks["schedule"]["well"], checks["schedule"]["detail"]

        (tmp_path / "streams" / "reviews.toml").unlink()
        await_text(log, "no stream yet", timeout=20)
        left = ask(servers.prefect.api, "deployments/filter")
        schedules = {one["name"]: one["schedules"] for one in left}
        assert schedules.pop("all-streams") != []  # what nothing needs goes each night
        assert schedules == {"reviews": [], "any-stream": []}  # the latter: forms for a person
    finally:
        begun = time.monotonic()
        up.send_signal(signal.SIGTERM)
        up.wait(timeout=60)
    assert time.monotonic() - begun < 15
    assert "Stopped." in log.read_text()
    assert [pid for pid in family if processes.alive(pid)] == []
    assert not record_file(tmp_path).exists()
