"""The short form of `make chaos`: each fault there is a few times, everything as promised after."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos import fleet, report, served
from chaos.faults import FAULTS, SERVERS
from chaos.served import Served

QUICK = ("kills", "hands", "rivals", "full_disk")
# On a stage with servers, which take a minute to start.
SERVED = [name for name, fault in FAULTS.items() if fault.stage is Served]


def chaos(out: Path, *options: str, story: str = "three rounds") -> dict[str, Any]:
    """Run it as a user does: it forks, which a process full of test threads had better not."""
    command = [sys.executable, "-m", "chaos", *options, "--story", story, "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1150)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads((out / "chaos.json").read_text())
    assert found["violations"] == []
    return found


@pytest.mark.timeout(600)
def test_whatever_is_broken_the_stream_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Each batch once, the champion whole, its posteriors the undisturbed ones bit for bit."""
    able = [fault for fault in QUICK if not FAULTS[fault].unable()]
    found = chaos(tmp_path, *able, "--runs", "1")
    assert found["by_fault"] == dict.fromkeys(sorted(able), 1)
    assert sum(found["kills"].values()) >= len(able)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", [one for one in FAULTS if one not in (*QUICK, *SERVED)])
def test_a_few_more_of_what_takes_longer(tmp_path: Path, fault: str) -> None:
    """Suspended workers, wrong clocks, a bad store, one that keeps its clients waiting."""
    if missing := FAULTS[fault].unable():
        pytest.skip(missing)
    found = chaos(tmp_path, fault, "--runs", "3")
    assert found["runs"] == 3
    assert sum(found["kills"].values()) >= 2


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


def run(seed: int, kills: list[str], violations: list[str]) -> dict[str, object]:
    return {"fault": "kills", "seed": seed, "story": "a", "kills": kills, "violations": violations}


def test_a_broken_promise_is_in_the_summary_with_the_seed_that_repeats_it() -> None:
    found = report.summary([run(1, ["x"], []), run(2, ["x", "y"], ["batch b1 is lost"])])
    assert (found["runs"], found["kills"]) == (2, {"x": 2, "y": 1})
    (broken,) = found["violations"]
    assert (broken["seed"], broken["kills"], broken["found"]) == (2, ["x", "y"], "batch b1 is lost")


def test_how_watches_ended_is_no_fault_and_is_on_the_page() -> None:
    told = run(1, ["mlflow killed"], []) | {"endings": ["mlflow: RegistryUnreachable"]}
    found = report.summary([told, run(2, ["x"], [])])
    assert found["endings"] == {"mlflow: RegistryUnreachable": 1}
    assert sum(found["kills"].values()) == 2
    assert "| mlflow: RegistryUnreachable | 1 |" in report.page(found)


def test_the_page_says_how_many_and_where() -> None:
    page = report.page(report.summary([run(1, ["x"], []), run(2, ["x", "y"], [])]))
    assert "2 runs (2 kills), 3 faults at 2 places, 0 violations" in page
    assert "| x | 2 |" in page
