"""Judge a batch's rows in one streamed pass, collecting what breaks which rule and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract
from bhpeft.data.options import options_in, options_there
from bhpeft.data.repeats import Repeats
from bhpeft.data.rows import conform, part_rows
from bhpeft.data.schema import Reason, expectation, pandera_schema

CHUNK_ROWS = 32_768
EXAMPLES = 5
ROW_NUMBERS = 1000
_EXAMPLE_LENGTH = 80


@dataclass
class Finding:
    """Count the rows that break one rule and remember the first of them."""

    rows: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    row_numbers: list[int] = field(default_factory=list)

    def add(self, numbers: Iterable[int], values: Iterable[Any]) -> None:
        """Take in failing rows."""
        for number, value in zip(numbers, values, strict=True):
            self.rows += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append({"row": int(number), "value": shortened(value)})
            if len(self.row_numbers) < ROW_NUMBERS:
                self.row_numbers.append(int(number))


Findings = dict[tuple[str, str], Finding]


def row_reasons(batch: Batch, contract: Contract, latest: datetime) -> list[Reason]:
    """Return one reason for every rule on rows that the batch breaks.

    Args:
        batch: a batch whose columns fit the contract.
        contract: the stream's contract.
        latest: times in the event-time column after this one lie in the future.

    Raises:
        BatchCorrupt: a part cannot be read to its end.
    """
    schema = pandera_schema(contract)
    findings: Findings = {}
    unique = {c.name: Repeats([c.name]) for c in contract.columns if c.unique}
    same = Repeats([contract.text, *contract.options[:2], *contract.answer])
    for start, rows in part_rows(batch, CHUNK_ROWS):
        frame = _frame(rows, start, contract, findings)
        if frame is None:
            continue
        _judge(frame, schema, findings)
        _judge_time(frame, contract.event_time, latest, findings)
        _judge_options(frame, contract, findings)
        flat = _hashable(frame, contract)
        for repeats in (*unique.values(), same):
            repeats.add(flat)
    repeated = {(name, "unique"): repeats.rows() for name, repeats in unique.items()}
    duplicates = same.rows()
    if len(duplicates) > contract.max_duplicate_share * batch.rows:
        repeated[contract.text, "duplicate rows"] = duplicates
    _add_repeats(batch, repeated, findings)
    return [_reason(contract, *rule, found) for rule, found in findings.items()]


def shortened(value: Any) -> str | None:
    """Return a value as text that fits a line: long ones are cut and say how long they were."""
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return None
    text = str(value)
    if len(text) <= _EXAMPLE_LENGTH:
        return text
    return f"{text[:_EXAMPLE_LENGTH]}… ({len(text)} characters)"


def _frame(
    rows: pa.RecordBatch, start: int, contract: Contract, findings: Findings
) -> pd.DataFrame | None:
    """Return the rows as a frame indexed by row number, or None if they cannot be decoded."""
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        try:
            # Parquet readers trust the writer that strings are UTF-8; so far nobody has looked.
            column.validate(full=True)
        except pa.ArrowInvalid:
            bad = _undecodable(column)
            findings.setdefault((name, "encoding"), Finding()).add(
                [start + i for i in bad], list(bad.values())
            )
            return None
    frame: pd.DataFrame = conform(rows, contract.arrow).to_pandas(date_as_object=False)
    frame.index = pd.RangeIndex(start, start + rows.num_rows)
    return frame


def _undecodable(column: pa.Array) -> dict[int, str]:
    """Return the rows whose bytes are not UTF-8, each with its bytes made readable."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    bad: dict[int, str] = {}
    for row, value in enumerate(column.cast(pa.large_binary())):
        try:
            (value.as_py() or b"").decode("utf-8")
        except UnicodeDecodeError:
            bad[row] = value.as_py().decode("utf-8", errors="backslashreplace")
    return bad


def _judge(frame: pd.DataFrame, schema: Any, findings: Findings) -> None:
    from pandera.errors import SchemaErrors

    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        for (column, check), group in cases.groupby(["column", "check"], sort=False):
            check = "null" if check == "not_nullable" else str(check)
            group = group.sort_values("index", key=lambda numbers: numbers.astype(np.int64))
            finding = findings.setdefault((str(column), check), Finding())
            finding.add(group["index"], group["failure_case"])


def _judge_time(
    frame: pd.DataFrame, column: str | None, latest: datetime, findings: Findings
) -> None:
    if column is None:
        return
    ahead = frame[column][frame[column] > pd.Timestamp(latest)]
    if len(ahead):
        findings.setdefault((column, "future"), Finding()).add(ahead.index, ahead)


def _judge_options(frame: pd.DataFrame, contract: Contract, findings: Findings) -> None:
    """Find answers that are none of their row's options, and options that leave one out."""
    if not contract.options:
        return
    there = options_there(frame, contract)
    count = there.cumprod(axis=1).sum(axis=1)
    place = {label: position for position, label in enumerate(contract.labels)}
    answers = [place.get(str(answer), 0) for answer in frame[contract.label]]
    for check, wrong in (
        ("options", (count < there.sum(axis=1)) | (count < 2) | (count > len(contract.labels))),
        ("no such option", np.asarray(answers) >= count),
    ):
        if wrong.any():
            finding = findings.setdefault((contract.label, check), Finding())
            finding.add(frame.index[wrong], frame[contract.label][wrong])


def _hashable(frame: pd.DataFrame, contract: Contract) -> pd.DataFrame:
    """Return the rows with a list of options as one text."""
    if not contract.option_list:
        return frame
    texts = [repr(options) for options in options_in(frame, contract)]
    return frame.assign(**{contract.options[0]: texts})


def _add_repeats(
    batch: Batch, repeated: dict[tuple[str, str], np.ndarray], findings: Findings
) -> None:
    """Add the repeated rows, whose values take a second look: only hashes were kept."""
    repeated = {rule: numbers for rule, numbers in repeated.items() if len(numbers)}
    if not repeated:
        return
    wanted = sorted({int(n) for numbers in repeated.values() for n in numbers[:EXAMPLES]})
    values = pick_rows(batch, wanted)
    for (column, check), numbers in repeated.items():
        shown = [values[int(n)].get(column) for n in numbers[:EXAMPLES]]
        finding = findings.setdefault((column, check), Finding())
        finding.add(numbers[:EXAMPLES], shown)
        finding.rows = len(numbers)
        finding.row_numbers = [int(n) for n in numbers[:ROW_NUMBERS]]


def pick_rows(
    batch: Batch, numbers: list[int], longest: int | None = None
) -> dict[int, dict[str, Any]]:
    """Return the rows of the given ascending numbers as they lie in the files, by number.

    Strings are cut to `longest` characters when it is given.
    """
    picked: dict[int, dict[str, Any]] = {}
    wanted = np.asarray(numbers, dtype=np.int64)
    for start, rows in part_rows(batch, CHUNK_ROWS):
        here = wanted[(wanted >= start) & (wanted < start + rows.num_rows)]
        taken = rows.take(pa.array(here - start)).to_pylist()
        for number, row in zip(here.tolist(), taken, strict=True):
            picked[number] = {name: _cut(value, longest) for name, value in row.items()}
        if len(picked) == len(numbers):
            break
    return picked


def _cut(value: Any, longest: int | None) -> Any:
    return value[:longest] if isinstance(value, str) else value


def _reason(contract: Contract, column: str, check: str, found: Finding) -> Reason:
    share = (
        f"at most {contract.max_duplicate_share:.1%} of rows repeating an earlier text and label"
    )
    return {
        "column": column,
        "check": check,
        "rows": found.rows,
        "expected": (
            share if check == "duplicate rows" else expectation(contract.column(column), check)
        ),
        "examples": found.examples,
        "row_numbers": found.row_numbers,
    }
