"""Read a batch's rows as a stream of small Arrow tables, never as one big frame.

`part_rows` yields rows as they lie in the files, for judging them; `read_rows` yields rows that
have been judged, in the contract's columns and types, for learning from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract
from bhpeft.errors import BatchCorrupt

T = TypeVar("T")

# What one chunk of decoded rows may weigh; texts of a megabyte make chunks of few rows.
CHUNK_BYTES = 64 * 2**20

# A part is read through a window of this size: by default Arrow would fetch whole columns of it
# beforehand, and a batch of ten million rows would lie in memory after all.
BUFFER_BYTES = 2**20


def read_rows(batch: Batch, contract: Contract, chunk_rows: int = 4096) -> Iterator[pa.RecordBatch]:
    """Yield the batch's rows in order, in the contract's columns and types.

    A label comes as a string, one of `contract.labels`. An optional column that a part does not
    have comes as nulls.

    Args:
        batch: a batch that has passed `check`.
        contract: the stream's contract.
        chunk_rows: most rows at a time; fewer where rows are large.

    Raises:
        BatchCorrupt: a part cannot be read to its end, or no longer fits the contract.
    """
    schema = learned = contract.arrow
    if contract.labels:
        label = schema.get_field_index(contract.label)
        learned = schema.set(label, schema.field(label).with_type(pa.string()))
    for _, rows in part_rows(batch, chunk_rows):
        try:
            yield conform(conform(rows, schema), learned)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
            raise _unreadable(batch, batch.folder, problem) from problem


def sample_rows(batch: Batch, contract: Contract, n: int, seed: int) -> pa.Table:
    """Return `n` rows drawn without replacement, in their order; all of them if there are fewer.

    Every row gets a random key and the `n` smallest are kept while the rows stream by, so memory
    holds n rows and one chunk.
    """
    generator = np.random.default_rng(seed)
    keys = np.empty(0)
    kept: pa.Table | None = None
    for rows in read_rows(batch, contract):
        keys = np.concatenate([keys, generator.random(rows.num_rows)])
        chunk = pa.Table.from_batches([rows])
        pool = chunk if kept is None else pa.concat_tables([kept, chunk])
        chosen = np.sort(np.argsort(keys, kind="stable")[:n])
        if kept is not None and chosen[-1:] < kept.num_rows:
            keys = keys[: kept.num_rows]
            continue
        # `take` copies, so that the chunk it was taken from can be freed.
        keys, kept = keys[chosen], pool.take(pa.array(chosen))
    if kept is None:
        return contract.arrow.empty_table()
    return kept.combine_chunks()


def part_rows(batch: Batch, chunk_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (row number of the first row, rows) as they lie in the parts.

    Rows are numbered from 0 through all parts, in the order of the manifest.

    Raises:
        BatchCorrupt: a part cannot be read to its end.
    """
    start = 0
    for path in batch.paths:
        with open_part(batch, path) as part:
            chunks = part.iter_batches(batch_size=_rows_at_a_time(part, chunk_rows))
            while True:
                rows = _guarded(batch, path, lambda: next(chunks, None))  # noqa: B023
                if rows is None:
                    break
                yield start, rows
                start += rows.num_rows


def open_part(batch: Batch, path: Path) -> pq.ParquetFile:
    """Open one part, reading its footer only.

    Raises:
        BatchCorrupt: it is truncated or not a Parquet file.
    """
    part: pq.ParquetFile = _guarded(
        batch, path, lambda: pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
    )
    return part


def conform(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Cast rows to a schema; a column they do not have comes as nulls.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column's type.
    """
    columns = [
        _cast(rows.column(field.name), field.type)
        if field.name in rows.schema.names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    # Nullability is judged by `check`, which can say in which rows; Arrow would only refuse.
    loose = pa.schema([field.with_nullable(True) for field in schema])
    return pa.RecordBatch.from_arrays(columns, schema=loose)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # Nanoseconds may be cut to microseconds and long integers rounded to floats: harmless here.
    lossy = pa.types.is_timestamp(kind) or pa.types.is_floating(kind)
    return column.cast(kind, safe=not lossy)


def _rows_at_a_time(part: pq.ParquetFile, chunk_rows: int) -> int:
    groups = [part.metadata.row_group(i) for i in range(part.metadata.num_row_groups)]
    heaviest = max((g.total_byte_size / max(1, g.num_rows) for g in groups), default=1.0)
    return int(max(1, min(chunk_rows, CHUNK_BYTES / max(heaviest, 1.0))))


def _guarded(batch: Batch, path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (pa.ArrowException, OSError) as problem:
        raise _unreadable(batch, path, problem) from problem


def _unreadable(batch: Batch, path: Path, problem: Exception) -> BatchCorrupt:
    return BatchCorrupt(
        f"The batch {batch.stream}/{batch.batch_id} cannot be read",
        found=f"{path.name}: {' '.join(str(problem).split())[:300]}",
        expected="whole Parquet files",
        remedy="Deliver it again under a new batch id.",
    )
