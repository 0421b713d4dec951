"""Put a batch that cannot be learned on record, with the rows that are wrong and the reasons.

    <quarantine>/<batch_id>-<digest8>/record.json      batch, digest, error, reasons, when
                                      rows.parquet     failing rows, at most 1000

The batch itself stays where it landed. The record is found by the batch's digest, so that the
same content under another name is known at once. Doing it twice changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bhpeft.data.batch import Batch, Unreadable, folder_digest
from bhpeft.data.row_checks import ROW_NUMBERS, pick_rows
from bhpeft.errors import BatchError, ContractViolation

logger = logging.getLogger(__name__)

RECORD, ROWS = "record.json", "rows.parquet"
RELEASED = "released.json"

# Texts are cut to this many characters: a thousand of a megabyte would be a gigabyte of record.
LONGEST_TEXT = 10_000

Record = dict[str, Any]


def quarantine(batch: Batch | Unreadable | Path, error: BatchError, folder: Path | str) -> Path:
    """Record why a batch cannot be learned; return the record's folder.

    Args:
        batch: the batch, or what landed and could not be opened, or its folder.
        error: what was wrong with it.
        folder: the stream's quarantine folder.
    """
    if isinstance(batch, Path):
        batch = _lying(batch, error)
    target = Path(folder) / f"{_printable(batch.batch_id)}-{batch.digest[:8]}"
    if (target / RECORD).exists():
        (target / RELEASED).unlink(missing_ok=True)
        return target
    record: Record = {
        "batch_id": batch.batch_id,
        "stream": batch.stream,
        "folder": batch.address,
        "digest": batch.digest,
        "error": type(error).__name__,
        "message": error.message,
        "reasons": error.reasons if isinstance(error, ContractViolation) else [],
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    hidden = Path(folder) / f".quarantine-{uuid.uuid4().hex}"
    try:
        hidden.mkdir(parents=True)
        rows = _failing_rows(batch, record["reasons"])
        if rows is not None:
            pq.write_table(rows, hidden / ROWS)
        text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
        (hidden / RECORD).write_text(text, encoding="utf-8")
        os.replace(hidden, target)
    except OSError:
        # Another process may have recorded the same batch meanwhile.
        if not (target / RECORD).exists():
            raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return target


def quarantined(folder: Path | str) -> dict[str, Record]:
    """Return the records of all batches in quarantine, by digest."""
    records: dict[str, Record] = {}
    for path in sorted(Path(folder).glob(f"[!.]*/{RECORD}")):
        if not (path.parent / RELEASED).exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            records[record["digest"]] = record
    return records


def release(folder: Path | str, digest: str, who: str, why: str) -> Path:
    """Let a batch out of quarantine, so that it is pending again; the record stays.

    For a contract that was wrong, or files that were mended to be what their manifest says.

    Raises:
        BatchError: no batch of that digest (or beginning of one) is in quarantine.
    """
    for path in sorted(Path(folder).glob(f"[!.]*/{RECORD}")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["digest"].startswith(digest) and not (path.parent / RELEASED).exists():
            note = {"who": who, "why": why, "when": datetime.now(UTC).isoformat(timespec="seconds")}
            (path.parent / RELEASED).write_text(json.dumps(note, indent=2), encoding="utf-8")
            return path.parent
    raise BatchError(
        "No such batch is in quarantine",
        found=f"digest {digest!r}",
        expected=f"one of {', '.join(d[:8] for d in quarantined(folder)) or 'none: it is empty'}",
        remedy="`bhpeft status STREAM` lists what is aside.",
    )


def _lying(folder: Path, error: BatchError) -> Unreadable:
    here = folder.resolve()
    return Unreadable(here.parent.name, here.name, str(folder), folder_digest(folder), error)


def _failing_rows(batch: Batch | Unreadable, reasons: list[dict[str, Any]]) -> pa.Table | None:
    """Return the rows the reasons name, each with its number and what is wrong with it."""
    wrong: dict[int, list[str]] = {}
    for reason in reasons:
        for number in reason.get("row_numbers", []):
            wrong.setdefault(number, []).append(f"{reason['column']}: {reason['check']}")
    numbers = sorted(wrong)[:ROW_NUMBERS]
    if not numbers or isinstance(batch, Unreadable):
        return None
    try:
        rows = pick_rows(batch, numbers, longest=LONGEST_TEXT)
    except BatchError as problem:
        # The record matters more than the rows, and the rows are still in the batch.
        logger.warning("no rows could be put in quarantine with %s: %s", batch.address, problem)
        return None
    return _table([{"_row": n, "_reasons": "; ".join(wrong[n]), **row} for n, row in rows.items()])


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows)
    except (pa.ArrowException, OverflowError):
        # Parts may disagree on a column's type; that may be the very thing that is wrong.
        return pa.Table.from_pylist([{k: _text(v) for k, v in row.items()} for row in rows])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _printable(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._") or "batch"
