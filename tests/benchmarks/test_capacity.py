"""The capacity page says what was measured, and where its servers would be full."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.capacity import fairness, saturation
from benchmarks.capacity_costs import Costs, cpu_seconds
from benchmarks.capacity_page import page
from benchmarks.capacity_plots import draw
from benchmarks.queues import DAY

COSTS = Costs(
    database="PostgreSQL",
    calls=50,
    call_seconds=0.01,
    calls_a_second=100.0,
    stored_bytes=500_000,
    start_cpu=8.0,
    flow_seconds=1.0,
    flows_a_second=2.0,
    round_cpu=1.0,
    round_database_cpu=0.2,
    flow_cpu=0.5,
    flow_database_cpu=0.1,
)


def found(costs: Costs = COSTS, streams: int = 200) -> dict[str, object]:
    rows = fairness(streams, 30.0)
    over = [{**row, "landing": "over the day", "queue": "one for all"} for row in rows[:1]]
    return {
        "machine": {"cpus": 2, "processor": "a processor"},
        "streams": streams,
        "costs": asdict(costs),
        "queues": over + rows,
        "saturation": saturation(streams, costs),
    }


def test_a_server_is_full_at_one_core_or_at_the_most_it_answered() -> None:
    full = saturation(int(DAY), COSTS)  # a round a second
    assert full["mlflow"] == pytest.approx(50 / 100)
    assert full["mlflow, cores"] == pytest.approx(1.0)
    assert full["prefect"] == pytest.approx(1 / 2)
    assert full["postgresql, cores"] == pytest.approx(0.2 + 0.1)
    assert full["object store, MB a second"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "PostgreSQL took 17% of the CPU"),
        ({"round_database_cpu": 3.0}, "give it cores before them"),
        (
            {"database": "SQLite", "round_database_cpu": 0.0, "flow_database_cpu": 0.0},
            "was not installed",
        ),
    ],
)
def test_the_page_says_which_is_full_first(change: dict[str, Any], said: str) -> None:
    text = page(found(replace(COSTS, **change)))
    assert said in text
    assert "{" not in text


def test_the_same_figures_make_the_same_plots(tmp_path: Path) -> None:
    first, second = (draw(found(), tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == ["saturation.svg", "waits.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_the_time_of_children_that_have_ended_is_counted() -> None:
    """As PostgreSQL's are, a process for each connection."""
    code = (
        "import subprocess, sys; burn = 'import time\\nwhile time.process_time() < 0.5: pass'; "
        "subprocess.run([sys.executable, '-c', burn]); print(1, flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert 0.5 <= cpu_seconds(parent.pid) < 2.0
        parent.communicate(b"\n")
