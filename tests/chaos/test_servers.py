"""Servers and hosts are killed: a file of its own, since it waits for minutes beside the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chaos import fleet, served
from chaos.faults import SERVERS
from tests.chaos.short_form import SERVED, chaos


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(bool(served.unable()), reason=f"no servers here: {served.unable()}")
def test_whichever_server_is_killed_in_the_middle_of_a_watch_the_next_one_finishes(
    tmp_path: Path,
) -> None:
    """MLflow, Prefect, PostgreSQL behind both; two schedulers; a lost lock. Nobody helps."""
    found = chaos(tmp_path, *SERVED, "--runs", "1", story="two rounds")
    assert found["by_fault"] == dict.fromkeys(sorted(SERVED), 1)
    killed = [place for place in found["kills"] if " killed for " in place]
    assert len(killed) == len(SERVERS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(fleet.unable()), reason=f"no fleet here: {fleet.unable()}")
def test_a_host_that_dies_loses_no_batch_and_its_runs_are_marked_within_two_minutes(
    tmp_path: Path,
) -> None:
    """PostgreSQL behind both servers, a bucket, two hosts; one is killed while it learns."""
    command = [sys.executable, "-m", "chaos.fleet", "--streams", "2", "--batches", "2"]
    ran = subprocess.run(
        [*command, "--minutes", "10", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "fleet.json").read_text())
    assert (found["violations"], found["rounds"]) == ([], 4)
    assert found["killed_processes"] > 0
    assert (found["slowest_crash_mark"] or 0) < 120
