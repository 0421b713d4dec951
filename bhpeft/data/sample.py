"""Look at a sample file: which columns it has, of which types, and what is in them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from bhpeft.data.sources import require_utf8
from bhpeft.errors import BatchError, ContractFileError
from bhpeft.tasks import Needs

_SAMPLE_ROWS = 10_000
# More different values than these are no list of labels.
MOST_LABELS = 200


@dataclass(frozen=True)
class Guess:
    """Hold what is to be written about one column."""

    name: str
    kind: str
    role: str | None = None
    values: tuple[Any, ...] = ()
    longest: int = 0
    distinct: int = 0
    rows: int = 0
    nulls: int = 0
    mean_length: float = field(default=0.0)


def columns_of(path: Path, needs: Needs) -> list[Guess]:
    """Return what a sample's columns hold, each without a role.

    Raises:
        BatchError: the sample cannot be read.
        ContractFileError: a column has a type that no contract knows.
    """
    table = read_sample(path)
    return [
        _describe(name, column.combine_chunks(), needs)
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]


def read_sample(path: Path) -> pa.Table:
    """Return the first ten thousand rows of a file, in the types they seem to have.

    Raises:
        BatchError: no such file, or not one of the kinds that can be landed.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            with pq.ParquetFile(path) as parquet:
                chunks = list(itertools.islice(parquet.iter_batches(_SAMPLE_ROWS), 1))
                return pa.Table.from_batches(chunks, parquet.schema_arrow)
        require_utf8(path)
        if suffix == ".csv":
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            return pyarrow.csv.read_csv(path, parse_options=parse).slice(0, _SAMPLE_ROWS)
        if suffix in (".jsonl", ".ndjson"):
            return pyarrow.json.read_json(path).slice(0, _SAMPLE_ROWS)
    except (OSError, pa.ArrowException) as problem:
        raise _unreadable(path, " ".join(str(problem).split())) from problem
    raise _unreadable(path, f"the suffix {suffix!r}")


def _describe(name: str, column: pa.Array, needs: Needs) -> Guess:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = _logical_type(column.type)
    if kind == "array" and needs.option_list:
        return Guess(name, kind, rows=len(column), nulls=column.null_count)
    if kind is None or kind == "array":
        raise ContractFileError(
            f"The column {name!r} of the sample has a type that no contract knows",
            found=str(column.type),
            expected="text, numbers, booleans, dates or times",
            remedy="Drop or flatten the column.",
        )
    present = column.drop_null()
    values = present.unique()
    few = kind in ("string", "integer") and len(values) <= MOST_LABELS
    lengths = pc.utf8_length(present) if kind == "string" and len(present) else None
    return Guess(
        name=name,
        kind=kind,
        values=tuple(sorted(values.to_pylist())) if few else (),
        longest=pc.max(lengths).as_py() if lengths is not None else 0,
        mean_length=pc.mean(lengths).as_py() if lengths is not None else 0.0,
        distinct=len(values),
        rows=len(column),
        nulls=column.null_count,
    )


def _logical_type(kind: pa.DataType) -> str | None:
    is_ = pa.types
    tests = (
        (is_.is_string(kind) or is_.is_large_string(kind) or is_.is_null(kind), "string"),
        (is_.is_integer(kind), "integer"),
        (is_.is_floating(kind) or is_.is_decimal(kind), "number"),
        (is_.is_boolean(kind), "boolean"),
        (is_.is_timestamp(kind), "timestamp"),
        (is_.is_date(kind), "date"),
        (is_.is_list(kind) and is_.is_string(kind.value_type), "array"),
    )
    return next((name for holds, name in tests if holds), None)


def _unreadable(path: Path, found: str) -> BatchError:
    return BatchError(
        f"The sample {path} cannot be read",
        found=found,
        expected="a .parquet, .csv or .jsonl file",
        remedy="Correct the path or convert the file.",
    )
