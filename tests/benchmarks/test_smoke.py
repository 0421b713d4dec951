"""Every benchmark, at its smallest: it must run, and say what a reader and the page can use."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import BENCHMARKS
from benchmarks.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_at_its_smallest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors fail; times never do."""
    monkeypatch.chdir(ROOT)
    file = tmp_path / "found.json"
    assert main([name, "--smoke", "--json", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert set(found) == {"name", "machine", "rows"}
    assert found["name"] == name
    assert found["rows"]
    assert len({row["what"] for row in found["rows"]}) == len(found["rows"])
    for row in found["rows"]:
        assert set(row) == {"what", "ratio", "low", "high", "target"}
        assert row["low"] <= row["ratio"] <= row["high"]
        assert all(math.isfinite(row[key]) for key in ("ratio", "low", "high"))


def test_all_of_them_together_keep_under_half_an_hour() -> None:
    assert sum(BENCHMARKS.values()) <= 1530
