"""The short form of `make chaos`: each fault there is a few times, everything as promised after."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos import report
from chaos.faults import FAULTS
from tests.chaos.short_form import SERVED, chaos

QUICK = ("kills", "hands", "rivals", "full_disk")


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
