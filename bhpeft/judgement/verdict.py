"""What a gate says about a round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["pass", "fail", "hold", "not_evaluable"]


@dataclass(frozen=True)
class Verdict:
    """One gate's answer, with the number it rests on.

    Attributes:
        gate: the gate's name, as in the stream file.
        outcome: "not_evaluable" means the evidence is missing; it is neither a pass nor a fail.
        value: the number judged, or None.
        limit: what it was judged against, or None.
        reason: one line for a person, with the numbers in it.
    """

    gate: str
    outcome: Outcome
    value: float | None
    limit: float | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON data."""
        return asdict(self)


# A gate takes a report, and its limits as keyword arguments with defaults.
Gate = Callable[..., Verdict]


def at_most(gate: str, value: float, limit: float, reason: str) -> Verdict:
    """Return pass where value ≤ limit, else fail."""
    return Verdict(gate, "pass" if value <= limit else "fail", value, limit, reason)


def unknown(gate: str, reason: str) -> Verdict:
    """Return that the gate cannot be evaluated, and why."""
    return Verdict(gate, "not_evaluable", None, None, reason)
