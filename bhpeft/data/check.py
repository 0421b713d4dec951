"""Judge a landed batch against its contract, cheapest first: files, columns, then rows in chunks.

Everything that is wrong with the rows is found in one pass and reported together, since whoever
mends the batch wants the whole list. A batch of any size is judged in bounded memory.

Freshness is judged as of the landing (`landed_at`), not as of today: a batch waiting for its turn,
or pending again after a rollback, has not become staler data by waiting.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from bhpeft.data.batch import Batch, verify_files
from bhpeft.data.contract import Contract
from bhpeft.data.row_checks import row_reasons
from bhpeft.data.rows import open_part
from bhpeft.data.schema import COLUMN_CHECKS, Reason, schema_reasons
from bhpeft.errors import BatchCorrupt, BatchEmpty, ContractViolation

# Clocks disagree and time zones get lost on the way: less than a day ahead is not a wrong batch.
CLOCK_TOLERANCE = timedelta(days=1)

# Row numbers kept for a rule on columns, where every row is at fault: enough to see one's error.
_ROWS_SHOWN = 5


def check(batch: Batch, contract: Contract, now: datetime | None = None) -> None:
    """Return if the batch can be learned; otherwise say everything that is wrong with it.

    Args:
        batch: a landed batch.
        contract: the stream's contract.
        now: the time against which freshness is judged; the time of landing by default.

    Raises:
        BatchCorrupt: a file is missing, extra, altered, truncated or unreadable.
        BatchEmpty: it has no rows.
        ContractViolation: `reasons` is one mapping a broken rule: column, check, rows (how many),
            expected, examples (up to 5 of {row, value}), row_numbers (up to 1000, from 0).
    """
    verify_files(batch)
    reasons = _column_reasons(batch, contract)
    if batch.rows == 0:
        raise BatchEmpty(
            f"The batch {batch.stream}/{batch.batch_id} is empty",
            found="0 rows",
            expected=f"at least {max(1, contract.min_rows)}",
            remedy="Nothing to do if nothing happened; otherwise look at its producer.",
        )
    if not reasons:
        as_of = now or batch.manifest.landed_at or datetime.now(UTC)
        reasons = _batch_reasons(batch, contract, as_of) + row_reasons(
            batch, contract, as_of + CLOCK_TOLERANCE
        )
    if reasons:
        raise violation(f"{batch.stream}/{batch.batch_id}", contract, reasons)


def violation(what: str, contract: Contract, reasons: list[Reason]) -> ContractViolation:
    """Return the error for broken rules, with a one-line summary."""
    return ContractViolation(
        f"The batch {what} breaks the contract {contract.name} {contract.version}",
        reasons=reasons,
        found="; ".join(_in_words(reason) for reason in reasons),
        remedy="Mend it and land it under a new batch id, or change the contract and its version.",
    )


def _column_reasons(batch: Batch, contract: Contract) -> list[Reason]:
    """Judge every part's footer; parts that are wrong in the same way are counted together."""
    found: dict[tuple[str, str], Reason] = {}
    for part, path in zip(batch.manifest.files, batch.paths, strict=True):
        with open_part(batch, path) as parquet:
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        if rows != part.rows:
            raise BatchCorrupt(
                f"The batch {batch.stream}/{batch.batch_id} is not what its manifest says",
                found=f"{rows} rows in {part.name}",
                expected=f"{part.rows}",
                remedy="Deliver it again under a new batch id.",
            )
        for reason in schema_reasons(schema, contract, rows):
            reason["row_numbers"] = list(range(min(batch.rows, _ROWS_SHOWN)))
            earlier = found.setdefault((reason["column"], reason["check"]), reason)
            if earlier is not reason:
                earlier["rows"] += rows
    return list(found.values())


def _batch_reasons(batch: Batch, contract: Contract, as_of: datetime) -> list[Reason]:
    age = as_of - batch.event_time
    reasons = []
    if contract.max_age is not None and age > contract.max_age:
        reasons.append(
            _about_batch(batch, "stale", f"{batch.event_time}", f"at most {contract.max_age} old")
        )
    if age < -CLOCK_TOLERANCE:
        reasons.append(
            _about_batch(batch, "future", f"{batch.event_time}", f"a time before {as_of}")
        )
    if batch.rows < contract.min_rows or batch.rows > (contract.max_rows or batch.rows):
        most = "" if contract.max_rows is None else f" and at most {contract.max_rows}"
        reasons.append(
            _about_batch(
                batch, "row count", f"{batch.rows} rows", f"at least {contract.min_rows}{most} rows"
            )
        )
    major, ours = batch.contract_version.split(".")[0], contract.version.split(".")[0]
    if major != ours:
        reasons.append(
            _about_batch(batch, "contract version", batch.contract_version, contract.version)
        )
    return reasons


def _about_batch(batch: Batch, check: str, found: str, expected: str) -> Reason:
    return {
        "column": None,
        "check": check,
        "rows": batch.rows,
        "expected": expected,
        "examples": [{"row": None, "value": found}],
        "row_numbers": [],
    }


def _in_words(reason: dict[str, Any]) -> str:
    subject = reason["column"] or "batch"
    rows = f" in {reason['rows']} row{'s' if reason['rows'] != 1 else ''}"
    shown = dict.fromkeys(repr(example["value"]) for example in reason["examples"])
    values = ", ".join(value for value in list(shown)[:3] if value != "None")
    where = "" if reason["check"] in COLUMN_CHECKS or reason["column"] is None else rows
    found = f" ({values})" if values else ""
    return f"{subject}: {reason['check']}{where}{found}, expected {reason['expected']}"
