"""Read CSV and JSON-lines files as a stream of Arrow record batches in a contract's types.

Cells are data and nothing else: one that begins with =, +, - or @ is a formula only to a
spreadsheet, and is kept as it is.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, json

from bhpeft.data.contract import Contract
from bhpeft.errors import BatchCorrupt, BatchEmpty

Reader = Callable[[Path, Contract], Iterator[pa.RecordBatch]]

# A row has to fit into one block; Arrow's default of 1 MB is less than a long text can be.
_BLOCK_BYTES = 16 * 2**20


def csv_rows(path: Path, contract: Contract) -> Iterator[pa.RecordBatch]:
    """Yield a CSV file's rows; the first line names the columns.

    An empty cell is a null. The words NA, null and NaN are not: they are texts people write.

    Raises:
        BatchEmpty: the file has not even a header.
        BatchCorrupt: it is not UTF-8, not CSV, or a value does not fit the contract's type.
    """
    require_utf8(path)
    with _explained(path):
        names = _open_csv(path, {}).schema.names
        yield from _timed(_open_csv(path, _types(contract, names)), contract)


def jsonl_rows(path: Path, contract: Contract) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file with one JSON object a line; a key that is left out is a null.

    Raises:
        BatchEmpty: the file holds nothing.
        BatchCorrupt: it is not UTF-8, not JSON lines, or a value does not fit the contract's type.
    """
    require_utf8(path)
    if path.stat().st_size == 0:
        raise _empty(path)
    types = _types(contract, [column.name for column in contract.columns])
    with _explained(path):
        reader = json.open_json(
            path,
            read_options=json.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=json.ParseOptions(
                explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="infer"
            ),
        )
        yield from _timed(reader, contract)


SOURCES: dict[str, Reader] = {".csv": csv_rows, ".jsonl": jsonl_rows, ".ndjson": jsonl_rows}


def require_utf8(path: Path) -> None:
    """Decode a file once, in blocks.

    Raises:
        BatchCorrupt: names the first byte that is not UTF-8, its offset and its line.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, lines = 0, 1
    with path.open("rb") as file:
        while True:
            block = file.read(2**20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as problem:
                place = offset - pending + problem.start
                lines += block.count(b"\n", 0, max(0, problem.start - pending))
                raise _not_utf8(path, place, lines, problem) from problem
            if not block:
                return
            offset += len(block)
            lines += block.count(b"\n")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn Arrow's complaints about a source file into ours."""
    try:
        yield
    except pa.ArrowException as problem:
        if "Empty" in str(problem):
            raise _empty(path) from problem
        raise BatchCorrupt(
            f"{path} cannot be read in the contract's types",
            found=" ".join(str(problem).split())[:300],
            expected="values of the columns' types, rows of less than 16 MB",
            remedy="Mend the row it names; in CSV the header is row 1.",
        ) from problem


def _open_csv(path: Path, types: Mapping[str, pa.DataType]) -> csv.CSVStreamingReader:
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict(types), null_values=[""], strings_can_be_null=True
        ),
    )


def _types(contract: Contract, names: list[str]) -> dict[str, pa.DataType]:
    """Return the types to parse: the contract's, with times as text, since zones are optional."""
    known = {field.name: field.type for field in contract.arrow}
    types = {name: known.get(name, pa.string()) for name in names}
    return {n: pa.string() if pa.types.is_timestamp(t) else t for n, t in types.items()}


def _timed(reader: Iterator[pa.RecordBatch], contract: Contract) -> Iterator[pa.RecordBatch]:
    times = {c.name for c in contract.columns if c.logical_type == "timestamp"}
    for rows in reader:
        # By position: a name may come twice, which is for `check` to refuse.
        for place, name in enumerate(rows.schema.names):
            if name in times:
                rows = rows.set_column(place, name, _times(rows.column(place)))
        yield rows


def _times(texts: pa.Array) -> pa.Array:
    """Parse ISO 8601 times; those without a zone are UTC."""
    utc = pa.timestamp("us", tz="UTC")
    try:
        return texts.cast(utc)
    except pa.ArrowInvalid:
        return texts.cast(pa.timestamp("us")).cast(utc)


def _empty(path: Path) -> BatchEmpty:
    return BatchEmpty(
        f"{path} is empty",
        found="0 bytes of data",
        expected="a header and at least one row",
        remedy="Nothing to do if nothing happened; otherwise look at its producer.",
    )


def _not_utf8(path: Path, place: int, line: int, problem: UnicodeDecodeError) -> BatchCorrupt:
    byte = problem.object[problem.start]
    return BatchCorrupt(
        f"{path} is not UTF-8",
        found=f"byte 0x{byte:02x} at offset {place} (line {line})",
        expected="UTF-8",
        remedy=f"Convert it first, for example: "
        f"iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}",
    )
