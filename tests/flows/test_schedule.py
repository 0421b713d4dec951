from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from bhpeft.stream import TEMPLATE, all_streams
from flows import processes
from flows.servers import record_file, running, serving

# A watch that finds another one running is cancelled: it has done nothing.
ENDED = {"Nothing pending", "Failed", "Crashed", "Round failed"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def write_stream(home: Path, name: str, interval: str) -> None:
    (home / "streams").mkdir(exist_ok=True)
    text = TEMPLATE.format(name=name, contract=f"data_contracts/{name}.odcs.yaml")
    (home / "streams" / f"{name}.toml").write_text(text.replace('"5m"', f'"{interval}"'))


def finished_run(timeout: float) -> Any:
    """Return the first flow run that a schedule started and that has ended."""
    from prefect.client.orchestration import get_client

    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with get_client(sync_client=True) as client:
            ended = [r for r in client.read_flow_runs() if r.state and r.state.name in ENDED]
        if ended:
            return ended[0]
        time.sleep(0.5)
    raise AssertionError(f"no scheduled run ended within {timeout} s")


def test_a_schedule_fires_a_real_run_and_nothing_is_left_behind(tmp_path: Path):
    """Two servers, a worker process and a deployed watch: the run comes by itself, and ends well.

    (On SQLAlchemy 2.1 the servers look healthy and no run ever comes.)
    """
    write_stream(tmp_path, "reviews", "8s")
    with serving(tmp_path, prefect_port=0, mlflow_port=0) as servers:
        from flows.deployments import deploy_all, ensure_reaper, next_runs
        from flows.worker import start_worker

        env = servers.env | {"PREFECT_LOGGING_LEVEL": "WARNING"}
        assert deploy_all(all_streams(tmp_path), tmp_path, env) == ["watch/reviews"]
        worker = start_worker(servers, query_seconds=1)
        try:
            run = finished_run(timeout=90)
            ensure_reaper()  # a second time
            coming = next_runs(tmp_path)
        finally:
            family = [
                pid
                for parent in (worker.pid, *(server.pid for server in servers.all))
                for pid in (parent, *processes.descendants(parent))
            ]
            processes.stop(worker.pid)
        assert deploy_all([], tmp_path, env) == []
        assert next_runs(tmp_path) == {}

    assert run.auto_scheduled
    assert (run.name, run.state.name) == ("reviews", "Nothing pending"), run.state.message
    assert "reviews" in coming
    assert [pid for pid in family if processes.alive(pid)] == []
    assert running(tmp_path) is None
    assert not record_file(tmp_path).exists()
