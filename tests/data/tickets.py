"""A table that keeps the tests' contract, to be spoilt in one way at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa


def tickets(rows: int = 12, **columns: Any) -> pa.Table:
    """Return `rows` good tickets, with the given columns put in place of theirs."""
    now = datetime.now(UTC)
    good: dict[str, Any] = {
        "ticket": [f"t{i}" for i in range(rows)],
        "text": [f"my invoice number {i} is wrong" for i in range(rows)],
        "label": ["billing" if i % 2 else "tech" for i in range(rows)],
        "team": ["north" if i % 3 else "south" for i in range(rows)],
        "at": pa.array(
            [now - timedelta(minutes=i) for i in range(rows)], pa.timestamp("us", "UTC")
        ),
        "score": [i / rows for i in range(rows)],
    }
    return pa.table(good | columns)


def with_value(table: pa.Table, column: str, row: int, value: Any) -> pa.Table:
    """Return the table with one value replaced."""
    values = table.column(column).to_pylist()
    values[row] = value
    place = table.schema.get_field_index(column)
    return table.set_column(place, column, pa.array(values, table.schema.field(column).type))
