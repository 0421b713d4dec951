"""The page says what the figures say, missed targets first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import BENCHMARKS, running
from benchmarks.budget import Budget
from benchmarks.machine import machine
from benchmarks.page import write
from benchmarks.paired import Row, row
from benchmarks.plots import cost_and_fidelity, growth


def found(name: str, *rows: Row) -> dict[str, object]:
    return {
        "name": name, "machine": machine(), "rows": [vars(one) for one in rows],
        "date": "2026-01-07", "commit": "0123abc", "seconds": 90,
    }  # fmt: skip


def test_a_missed_target_is_said_at_the_top_and_in_its_section(tmp_path: Path) -> None:
    results = tmp_path / "benchmarks.json"
    fast, slow = Row("fast ÷ stock", 0.5, 0.4, 0.6, 0.8), Row("slow ÷ stock", 1.5, 1.4, 1.6, 0.8)
    results.write_text(json.dumps([found("train_step", fast, slow)]), encoding="utf-8")
    page = write(results).read_text(encoding="utf-8")
    assert "1 of 2 targets are met" in page
    assert "| [train_step](#train_step) | slow ÷ stock | 1.5 | 0.8 |" in page
    assert "| fast ÷ stock | 0.5 | 0.4 to 0.6 | ≤ 0.8 | met |" in page
    assert "![train_step](benchmarks/train_step.svg)" in page
    assert "commit 0123abc, 2026-01-07" in page
    assert "The run took 1.5 minutes" in page


def test_the_same_figures_make_the_same_page_and_the_same_plots(tmp_path: Path) -> None:
    """Otherwise every run would look like a change."""
    results = tmp_path / "benchmarks.json"
    results.write_text(json.dumps([found("train_step", Row("x", 1, 1, 1))]), encoding="utf-8")
    write(results)
    first = {path.name: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    write(results)
    assert first == {p.name: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()}
    assert "train_step.svg" in first


def test_a_predictor_becomes_a_point_when_it_has_both_its_figures() -> None:
    rows = [
        vars(Row("mean: cost ÷ one pass", 1, 1, 1)),
        vars(Row("mean: KL to gold ÷ naive's", 2, 2, 2)),
        vars(Row("full: cost ÷ one pass", 9, 9, 9)),
    ]
    [text] = cost_and_fidelity(rows).axes[0].texts
    assert text.get_text() == "mean"
    assert cost_and_fidelity(rows[1:]) is None


def test_growth_is_drawn_over_the_number_in_the_words() -> None:
    plot = growth(r"^([\d,]+) rows: peak", "rows", "MB")
    rows = [vars(Row(f"{n} rows: peak", y, y, y, 300)) for n, y in (("1,000", 5), ("20", 4))]
    line = plot(rows).axes[0].lines[0]
    assert list(line.get_xdata()) == [20, 1000]
    assert list(line.get_ydata()) == [4, 5]


def test_repeats_stop_when_the_seconds_are_spent_but_not_before_there_are_a_few() -> None:
    from benchmarks.paired import seconds

    assert len(seconds({"x": lambda: None}, Budget(seconds=0, least=3, most=9))["x"]) == 3
    assert len(seconds({"x": lambda: None}, Budget(seconds=60, least=3, most=9))["x"]) == 9


def test_a_single_repeat_is_its_own_median() -> None:
    assert row("x", [2.0]) == Row("x", 2.0, 2.0, 2.0)


def test_a_run_that_was_cut_off_goes_on_and_a_failure_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done is kept, what failed is tried again, and the rest is written."""
    monkeypatch.setattr(running, "BENCHMARKS", {"good": 1.0, "bad": 1.0, "kept": 1.0})
    monkeypatch.setattr(running, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(running, "state_of", lambda: "here")
    (tmp_path / "kept" / "here" / "full").mkdir(parents=True)
    (tmp_path / "kept" / "here" / "full" / "kept.json").write_text('{"name": "kept"}')
    script = tmp_path / "benchmarks.py"
    script.write_text(
        "import sys\n"
        "if sys.argv[1] == 'bad': sys.exit('it broke')\n"
        "open(sys.argv[3], 'w').write('{\"name\": \"good\"}')\n"
    )
    # `-m benchmarks` then finds the script beside it rather than the package.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    said: list[str] = []
    status = running.every(tmp_path / "all.json", False, None, said.append)
    assert status == 1
    names = [one["name"] for one in json.loads((tmp_path / "all.json").read_text())]
    assert names == ["good", "kept"]
    assert "it broke" in (tmp_path / "kept" / "here" / "full" / "bad.log").read_text()
    assert said[0].startswith("good: done")
    assert "failed: bad" in said[-1]


def test_naming_the_benchmarks_loads_nothing_heavy() -> None:
    code = "import benchmarks, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert BENCHMARKS
