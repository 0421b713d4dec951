"""Write a decision down for people: a headline, and a Markdown table of all verdicts."""

from __future__ import annotations

from bhpeft.judgement.gates import Decision

_SAID = {"promote": "Promoted", "refuse": "Refused", "hold": "Held"}
_MARKS = {"pass": "✓ pass", "fail": "✗ fail", "hold": "⏸ hold", "not_evaluable": "– not evaluable"}


def headline(decision: Decision) -> str:
    """Return one line: what happened, the first reason in full, and which others there are."""
    said = _SAID[decision.outcome]
    if decision.outcome == "promote":
        passed = sum(verdict.outcome == "pass" for verdict in decision.verdicts)
        silent = len(decision.verdicts) - passed
        return f"{said}: {passed} gates passed" + (f", {silent} not evaluable." if silent else ".")
    first, *others = decision.decisive
    also = f" (also {', '.join(verdict.gate for verdict in others)})" if others else ""
    return f"{said} by {first.gate}{also}: {first.reason}."


def gate_table(decision: Decision) -> str:
    """Return the headline and a Markdown table, used as the version's description in MLflow."""
    lines = [
        headline(decision),
        "",
        "| gate | verdict | value | limit | reason |",
        "|---|---|---:|---:|---|",
    ]
    for verdict in decision.verdicts:
        cells = [
            verdict.gate,
            _MARKS[verdict.outcome],
            _number(verdict.value),
            _number(verdict.limit),
            # A bar would end the cell, and slice values come from data.
            verdict.reason.replace("|", "\\|").replace("\n", " "),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if decision.switched_off:
        lines += ["", f"Switched off in the stream file: {', '.join(decision.switched_off)}."]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
