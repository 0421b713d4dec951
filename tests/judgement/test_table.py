from __future__ import annotations

from bhpeft.judgement.gates import Decision, Verdict
from bhpeft.judgement.table import gate_table, headline

PASSED = Verdict("nll", "pass", -0.0123456, 0.01, "NLL fell")
FAILED = Verdict("forgetting", "fail", 0.061, 0.034, "accuracy on a|b fell 0.061")
SILENT = Verdict("slices", "not_evaluable", None, None, "no slices")


def test_the_headline_says_what_happened_and_why() -> None:
    """One line: the first reason in full, other gates by name."""
    assert headline(Decision("promote", (PASSED, SILENT))) == (
        "Promoted: 1 gates passed, 1 not evaluable."
    )
    refused = Decision("refuse", (FAILED, PASSED, Verdict("budget", "fail", 9, 6, "too slow")))
    assert headline(refused) == ("Refused by forgetting (also budget): accuracy on a|b fell 0.061.")
    held = Decision("hold", (Verdict("drift", "hold", 1.0, None, "extreme"),))
    assert headline(held) == "Held by drift: extreme."


def test_the_table_is_markdown_with_one_row_a_gate() -> None:
    """Bars from the data are escaped, so that every row keeps its five cells."""
    lines = gate_table(Decision("refuse", (PASSED, FAILED, SILENT), ("budget",))).splitlines()
    assert lines[0].startswith("Refused by forgetting")
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 4
    for row in rows:
        assert row.replace("\\|", "").count("|") == 6
    assert "| nll | ✓ pass | -0.01235 | 0.01 | NLL fell |" in lines
    assert lines[-1] == "Switched off in the stream file: budget."
