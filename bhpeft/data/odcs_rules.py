"""Translate the rules of an ODCS document into the few that bhpeft enforces.

A rule that cannot be enforced is refused rather than ignored: the reader of a contract must be
able to believe it. Prose (`type: text`) always passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from open_data_contract_standard.model import OpenDataContractStandard

from bhpeft.data.odcs import require_known
from bhpeft.errors import ContractFileError

# The bounds of the standard's `logicalTypeOptions` that are enforced, and their names here.
_BOUNDS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
}
_LENGTHS = {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"}
_OPTIONS: dict[str, dict[str, str]] = {
    "string": _LENGTHS,
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "timestamp": _BOUNDS,
    "date": _BOUNDS,
    "boolean": {},
    "array": {},
}

_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "hr": "hours", "d": "days", "w": "weeks"}
_LONG_UNITS = ("seconds", "minutes", "hours", "days", "weeks")


@dataclass(frozen=True)
class RowRules:
    """Hold the rules about a batch as a whole; `duplicate_share` is None when not given."""

    minimum: int = 1
    maximum: int | None = None
    duplicate_share: float | None = None


def bounds(declared: Any, kind: str, where: str) -> dict[str, Any]:
    """Return the column's `logicalTypeOptions` under the names of `Column`."""
    known = _OPTIONS[kind]
    found: dict[str, Any] = {}
    for option, value in (declared.logicalTypeOptions or {}).items():
        require_known("logicalTypeOptions entry", option, tuple(known), where)
        found[known[option]] = value
    return found


def valid_values(declared: Any, kind: str, where: str) -> tuple[Any, ...]:
    """Return the column's valid values, from its `invalidValues` rule or its `enum`."""
    values: list[Any] = [entry.value for entry in declared.enum or []]
    for rule in _enforceable(declared.quality, ("invalidValues",), where):
        values = (rule.arguments or {}).get("validValues") or []
        if rule.mustBe != 0:
            raise ContractFileError(
                f"{where} tolerates invalid values",
                found=str(rule.model_dump(exclude_none=True)),
                expected="mustBe: 0",
                remedy="Write `mustBe: 0`; a share of unknown values cannot be learned.",
            )
    python = {"string": str, "integer": int, "number": (int, float)}.get(kind, object)
    wrong = [v for v in values if not isinstance(v, python) or isinstance(v, bool)]  # type: ignore[arg-type]
    if wrong:
        raise ContractFileError(
            f"{where} lists valid values of another type",
            found=", ".join(f"{v!r} ({type(v).__name__})" for v in wrong),
            expected=f"values of the logicalType {kind}",
            remedy="YAML reads yes, no, on, off, 1 and null as other types: put them in quotes.",
        )
    return tuple(values)


def row_rules(table: Any, path: Path) -> RowRules:
    """Return the rules on the table: `rowCount`, and `duplicateValues` in percent."""
    minimum: float = 1
    maximum: float | None = None
    share: float | None = None
    for rule in _enforceable(table.quality, ("rowCount", "duplicateValues"), str(path)):
        low, high = _interval(rule, path)
        if rule.metric == "rowCount":
            minimum = max(minimum, low or 0)
            maximum = high
        elif rule.unit != "percent" or high is None:
            raise ContractFileError(
                f"{path} has a rule on duplicates that bhpeft cannot enforce",
                found=str(rule.model_dump(exclude_none=True)),
                expected="an upper bound in percent",
                remedy="Write {type: library, metric: duplicateValues, unit: percent, "
                "mustBeLessOrEqualTo: 5}.",
            )
        else:
            share = high / 100
    return RowRules(int(minimum), None if maximum is None else int(maximum), share)


def max_age(document: OpenDataContractStandard, path: Path) -> timedelta | None:
    """Return how old a batch may be when it lands: the SLA's latency, else its frequency."""
    promised = {sla.property: sla for sla in document.slaProperties or []}
    sla = promised.get("latency") or promised.get("frequency")
    if sla is None:
        return None
    unit = str(sla.unit or "").lower()
    unit = _UNITS.get(unit, unit if unit.endswith("s") else f"{unit}s")
    value = sla.value
    if unit not in _LONG_UNITS or isinstance(value, bool) or not isinstance(value, int | float):
        raise ContractFileError(
            f"{path} has an SLA that cannot be read",
            found=f"{sla.property}: value {value!r}, unit {sla.unit!r}",
            expected="a number with a unit of m, h, d or w",
            remedy="Write {property: latency, value: 24, unit: h}.",
        )
    return timedelta(**{unit: value})


def _enforceable(rules: Any, metrics: tuple[str, ...], where: str) -> list[Any]:
    """Return the library rules among `rules`; prose passes, anything else is refused."""
    kept = []
    for rule in rules or []:
        metric = rule.metric or rule.rule
        if rule.type == "text":
            continue
        if rule.type not in (None, "library") or metric not in metrics:
            raise ContractFileError(
                f"{where} has a quality rule that bhpeft does not enforce",
                found=f"type: {rule.type}, metric: {metric}",
                expected=f"type: library with one of {', '.join(metrics)}, or type: text",
                remedy="Use `required`, `unique` or logicalTypeOptions, or make it `type: text`.",
            )
        kept.append(rule)
    return kept


def _interval(rule: Any, path: Path) -> tuple[float | None, float | None]:
    """Return a rule's inclusive bounds; row counts are whole numbers, so `> 20` is `>= 21`."""
    step = 1 if rule.metric == "rowCount" else 0
    if rule.mustBeBetween:
        return rule.mustBeBetween[0], rule.mustBeBetween[1]
    if rule.mustBeGreaterThan is not None:
        return rule.mustBeGreaterThan + step, None
    if rule.mustBeGreaterOrEqualTo is not None:
        return rule.mustBeGreaterOrEqualTo, None
    if rule.mustBeLessThan is not None:
        return None, rule.mustBeLessThan - step
    if rule.mustBeLessOrEqualTo is not None:
        return None, rule.mustBeLessOrEqualTo
    if rule.mustBe == 0 and rule.metric == "duplicateValues":
        return None, 0
    raise ContractFileError(
        f"{path} has a {rule.metric} rule without a bound that bhpeft enforces",
        found=str(rule.model_dump(exclude_none=True)),
        expected="mustBeGreaterThan, mustBeGreaterOrEqualTo, mustBeLessThan, "
        "mustBeLessOrEqualTo or mustBeBetween",
        remedy="Write for example {type: library, metric: rowCount, mustBeGreaterThan: 99}.",
    )
