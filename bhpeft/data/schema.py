"""Compile a contract into what enforces it: Arrow types for files, a pandera schema for rows.

Types are judged once a file, from its footer; pandera then sees only values. Whether a value is
unique cannot be seen in a chunk of rows: that is `repeats.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from bhpeft.data.contract import Column, Contract
from bhpeft.errors import did_you_mean

Reason = dict[str, Any]

# The checks on whole columns; all others say how many rows fail.
COLUMN_CHECKS = ("missing column", "extra column", "column twice", "type")

# What producers write for each logical type without meaning anything else by it. Unsigned 64-bit
# integers are left out: they do not fit the type in which integers are read.
_is = pa.types
_ACCEPTED: Mapping[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "string": (_is.is_string, _is.is_large_string, _is.is_string_view),
    "integer": (lambda kind: bool(_is.is_integer(kind)) and not _is.is_uint64(kind),),
    "number": (_is.is_floating, _is.is_integer, _is.is_decimal),
    "boolean": (_is.is_boolean,),
    "timestamp": (_is.is_timestamp,),
    "date": (_is.is_date,),
    "array": (
        lambda kind: (
            bool(_is.is_list(kind) or _is.is_large_list(kind))
            and bool(_is.is_string(kind.value_type) or _is.is_large_string(kind.value_type))
        ),
    ),
}


def schema_reasons(found: pa.Schema, contract: Contract, rows: int) -> list[Reason]:
    """Say how a file's columns differ from the contract's: missing, extra, twice, or mistyped."""
    rules = {column.name: column for column in contract.columns}
    names = Counter(found.names)
    reasons = [
        _reason(name, "missing column", rows, sorted(names), f"a {rules[name].logical_type}")
        for name in contract.always_present
        if name not in names
    ]
    for name, times in names.items():
        if name not in rules:
            hint = did_you_mean(name, rules)
            if name.startswith("__index_level_"):
                hint = "pandas wrote its index: use to_parquet(..., index=False)."
            reasons.append(_reason(name, "extra column", rows, [name], f"no such column. {hint}"))
        elif times > 1:
            reasons.append(_reason(name, "column twice", rows, [name], "each column once"))
        elif not _fits(found.field(name).type, rules[name]):
            kind = str(found.field(name).type)
            reasons.append(_reason(name, "type", rows, [kind], f"a {rules[name].logical_type}"))
    return reasons


def pandera_schema(contract: Contract) -> Any:
    """Return the pandera `DataFrameSchema` of the contract's rules on single rows."""
    import pandera.pandas as pandera

    return pandera.DataFrameSchema(
        {
            column.name: pandera.Column(
                checks=_checks(column, contract), nullable=not column.required
            )
            for column in contract.columns
        },
        name=contract.name,
    )


def expectation(column: Column, check: str) -> str:
    """Say in words what a check of `pandera_schema` expects of a column."""
    return {
        "null": "no nulls",
        "empty": "a text with at least one visible character",
        "length": f"{column.min_length} to {column.max_length} characters",
        "unknown value": f"one of {', '.join(str(value) for value in column.values)}",
        "pattern": f"the pattern {column.pattern}",
        "infinite": "a finite number",
        "options": "two options or more, no more than labels, and no gap between them",
        "no such option": "the label of one of the row's options",
        "range": _range_in_words(column),
        "future": "a time that has come",
        "unique": "every value once",
        "encoding": "UTF-8",
    }.get(check, f"a {column.logical_type}")


def _reason(column: str, check: str, rows: int, examples: list[str], expected: str) -> Reason:
    return {
        "column": column,
        "check": check,
        "rows": rows,
        "expected": expected,
        "examples": [{"row": None, "value": example} for example in examples[:5]],
        "row_numbers": [],
    }


def _fits(found: pa.DataType, column: Column) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    # A writer that saw only nulls does not know their type.
    if pa.types.is_null(found) and not column.required:
        return True
    return any(accepts(found) for accepts in _ACCEPTED[column.logical_type])


def _checks(column: Column, contract: Contract) -> list[Any]:
    import pandas as pd
    from pandera.pandas import Check

    checks = _text_checks(column, contract) if column.logical_type == "string" else []
    if column.logical_type == "number":
        checks.append(Check(lambda numbers: numbers.abs() < math.inf, error="infinite"))
    if column.values:
        checks.append(Check.isin(column.values, error="unknown value"))
    temporal = column.logical_type in ("timestamp", "date")
    for bound, compare in (
        (column.minimum, Check.ge),
        (column.maximum, Check.le),
        (column.above, Check.gt),
        (column.below, Check.lt),
    ):
        if bound is not None:
            limit = pd.Timestamp(bound) if temporal else bound
            if column.logical_type == "timestamp" and limit.tzinfo is None:
                limit = limit.tz_localize("UTC")
            checks.append(compare(limit, error="range"))
    return checks


def _text_checks(column: Column, contract: Contract) -> list[Any]:
    from pandera.pandas import Check

    checks = [Check.str_length(column.min_length, column.max_length, error="length")]
    if column.name == contract.text:
        checks.append(Check(lambda texts: texts.str.strip() != "", error="empty"))
    if column.pattern is not None:
        checks.append(Check.str_contains(column.pattern, error="pattern"))
    return checks


def _range_in_words(column: Column) -> str:
    bounds = (
        ("at least", column.minimum),
        ("at most", column.maximum),
        ("above", column.above),
        ("below", column.below),
    )
    return " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)
