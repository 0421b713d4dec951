"""Let every gate speak, and turn what they say into one decision.

To add a gate: write `def mine(report: RoundReport, *, limit: float = 1.0) -> Verdict`, and add a
line to `GATES`, or name it in the stream file as `package.module:mine`. Run
`conformance.check_gate(mine)` on it. None is short-circuited: a refused candidate shows everything
that is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal

from bhpeft.errors import StreamFileError, did_you_mean
from bhpeft.judgement.gates_health import budget, drift, fidelity, posterior
from bhpeft.judgement.gates_quality import (
    accuracy,
    calibration,
    forgetting,
    paired_nll,
    rejection,
    rmse,
    slices,
)
from bhpeft.judgement.report import RoundReport
from bhpeft.judgement.verdict import Gate, Verdict
from bhpeft.plugins import resolve

__all__ = ["GATES", "Decision", "Gate", "Settings", "Verdict", "check_settings", "decide"]

# By gate: limits that override the defaults in its signature, or False to switch it off.
Settings = Mapping[str, Mapping[str, float] | bool]

GATES: Mapping[str, Gate] = {
    "nll": paired_nll,
    "accuracy": accuracy,
    "rmse": rmse,
    "forgetting": forgetting,
    "slices": slices,
    "calibration": calibration,
    "rejection": rejection,
    "posterior": posterior,
    "fidelity": fidelity,
    "drift": drift,
    "budget": budget,
}

# Each guards the headline of some task, and speaks only where it is the round's.
HEADLINES = frozenset({"accuracy", "rmse"})

# Without these two nothing is known about the candidate, so a person has to look.
REQUIRED = frozenset({"nll", "posterior"})


@dataclass(frozen=True)
class Decision:
    """What happens to the candidate, and every verdict that led there.

    Attributes:
        outcome: "refuse" if any gate fails; else "hold" if any holds or a required one could not
            be evaluated; else "promote".
        verdicts: one a gate, in order.
        switched_off: gates the stream file turned off.
    """

    outcome: Literal["promote", "refuse", "hold"]
    verdicts: tuple[Verdict, ...]
    switched_off: tuple[str, ...] = ()

    @property
    def decisive(self) -> tuple[Verdict, ...]:
        """Return the verdicts that made the outcome: failures, or what holds; none if promoted."""
        if self.outcome == "refuse":
            return tuple(verdict for verdict in self.verdicts if verdict.outcome == "fail")
        return tuple(verdict for verdict in self.verdicts if _holds(verdict))

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as JSON data."""
        return {
            "outcome": self.outcome,
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "switched_off": list(self.switched_off),
        }


def decide(
    report: RoundReport, settings: Settings | None = None, *, person_required: bool = False
) -> Decision:
    """Return the decision on a round.

    Args:
        report: the round's report.
        settings: `[gates]` of the stream file.
        person_required: hold what the gates would promote, for a person to approve.

    Raises:
        UnknownName: the settings name a gate nobody knows.
        StreamFileError: they set a limit the gate does not have.
    """
    settings = settings or {}
    check_settings(settings)
    off = tuple(name for name, limits in settings.items() if limits is False)
    mute = HEADLINES - {report.holdout.figures.headline.name}
    names = [name for name in dict.fromkeys([*GATES, *settings]) if name not in {*off, *mute}]
    verdicts = tuple(
        resolve("gate", name, GATES)(report, **_limits(settings.get(name))) for name in names
    )
    if person_required:
        verdicts += (Verdict("approval", "hold", None, None, "every promotion needs a person"),)
    outcome: Literal["promote", "refuse", "hold"] = "promote"
    if any(verdict.outcome == "fail" for verdict in verdicts):
        outcome = "refuse"
    elif any(_holds(verdict) for verdict in verdicts):
        outcome = "hold"
    return Decision(outcome, verdicts, off)


def check_settings(settings: Settings) -> None:
    """Refuse settings that no gate would understand; called when the stream file is read.

    Raises:
        UnknownName: an unknown gate; says what was probably meant.
        StreamFileError: an unknown limit, likewise, or one that is not a finite number.
    """
    for name, limits in settings.items():
        if not isinstance(limits, Mapping | bool):
            raise StreamFileError(
                f"The settings of the gate {name!r} are not understood",
                found=repr(limits),
                expected="a table of limits, or false to switch the gate off",
                remedy=f"For example: {name} = {{ margin = 0.02 }}.",
            )
        known = _known_limits(resolve("gate", name, GATES))
        for limit, value in _limits(limits).items():
            if limit not in known:
                raise StreamFileError(
                    f"The gate {name!r} has no limit {limit!r}",
                    expected=f"one of {', '.join(known)}" if known else "no limits at all",
                    remedy=did_you_mean(limit, known),
                )
            if not _is_number(value):
                raise StreamFileError(
                    f"The limit {limit!r} of the gate {name!r} is not a number",
                    found=repr(value),
                    expected=f"a finite number (the default is {known[limit]!r})",
                    remedy="Correct it, or leave it out.",
                )


def _known_limits(gate: Gate) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in signature(gate).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }


def _limits(limits: Mapping[str, float] | bool | None) -> Mapping[str, float]:
    return limits if isinstance(limits, Mapping) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _holds(verdict: Verdict) -> bool:
    return verdict.outcome == "hold" or (
        verdict.outcome == "not_evaluable" and verdict.gate in REQUIRED
    )
