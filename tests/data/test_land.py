from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from bhpeft.data.batch import incomplete, landed, open_batch
from bhpeft.data.contract import Contract
from bhpeft.data.land import land
from bhpeft.data.rows import read_rows
from bhpeft.errors import BatchCorrupt, BatchEmpty, BatchError, ContractViolation
from tests.data.conftest import Lander
from tests.data.tickets import tickets, with_value


def nothing_landed(landing: Path) -> bool:
    """Say whether neither a batch nor a trace of one is there."""
    return landed(landing, "tickets") == [] and incomplete(landing, "tickets") == []


def rows_of(folder: Path, contract: Contract) -> list[dict[str, object]]:
    return pa.Table.from_batches(read_rows(open_batch(folder), contract)).to_pylist()


def written(table: pa.Table, path: Path) -> Path:
    """Write a table in the format of the path's suffix."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        lines = [json.dumps(row, default=datetime.isoformat) for row in table.to_pylist()]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_kind_of_file_lands_with_the_same_rows(
    tmp_path: Path, landing: Path, contract: Contract, suffix: str
) -> None:
    """The format a batch came in leaves no trace in what is learned."""
    table = with_value(tickets(), "text", 3, '=HYPERLINK("x")\nNA, "quoted" 🙂')
    source = written(table, tmp_path / f"tickets{suffix}")
    batch = land(source, landing, contract, "tickets")
    assert rows_of(batch.folder, contract) == table.to_pylist()
    assert (batch.rows, batch.stream, batch.contract_version) == (12, "tickets", "1.2.0")


def test_a_folder_of_parquet_lands_part_by_part(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """Parts keep their order; files that begin with an underscore are no data."""
    table, folder = tickets(), tmp_path / "parts"
    folder.mkdir()
    written(table.slice(0, 5), folder / "a.parquet")
    written(table.slice(5), folder / "b.parquet")
    (folder / "_SUCCESS.parquet").touch()
    batch = land(folder, landing, contract, "tickets")
    assert [part.rows for part in batch.manifest.files] == [5, 7]
    assert rows_of(batch.folder, contract) == table.to_pylist()


def test_parquet_is_copied_byte_by_byte(tmp_path: Path, landing: Path, contract: Contract) -> None:
    """Its digest is then the producer's own, whatever version of Arrow lands it."""
    source = written(tickets(), tmp_path / "a.parquet")
    batch = land(source, landing, contract, "tickets")
    assert batch.paths[0].read_bytes() == source.read_bytes()


def test_the_event_time_is_the_newest_row_s_unless_given(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """Batches are learned in the order of their event times."""
    table = tickets()
    newest = max(table.column("at").to_pylist())
    source = written(table, tmp_path / "a.parquet")
    assert land(source, landing, contract, "one").event_time == newest
    given = datetime.now(UTC) - timedelta(days=1)
    assert land(source, landing, contract, "two", event_time=given).event_time == given


def test_content_that_has_landed_is_not_landed_again(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """The earlier batch is returned, whatever id is asked for now."""
    source = written(tickets(), tmp_path / "a.parquet")
    first = land(source, landing, contract, "tickets", "monday")
    assert land(source, landing, contract, "tickets", "tuesday") == first
    assert [batch.batch_id for batch in landed(landing, "tickets")] == ["monday"]
    assert incomplete(landing, "tickets") == []


def test_an_id_that_is_taken_by_other_content_is_refused(lander: Lander) -> None:
    """A landed batch is never changed in place."""
    before = lander(tickets(), "b1")
    with pytest.raises(BatchError, match="'b1' is taken"):
        lander(tickets(6), "b1")
    assert open_batch(before.folder) == before


def test_a_batch_that_breaks_its_contract_does_not_land(lander: Lander, landing: Path) -> None:
    """The producer hears of it at once."""
    with pytest.raises(ContractViolation, match="unknown value"):
        lander(with_value(tickets(), "label", 0, "x"), validate=True)
    assert nothing_landed(landing)


def test_a_bad_batch_lands_unjudged_if_asked_to(lander: Lander, landing: Path) -> None:
    """The round's own check is then the one to find it."""
    batch = lander(tickets().drop_columns("text"), validate=False)
    assert landed(landing, "tickets") == [batch]


@pytest.mark.parametrize("name", ["../escape", ".hidden", "_manifest", "a/b", ""])
def test_an_id_or_stream_that_would_leave_the_landing_folder_is_refused(
    tmp_path: Path, landing: Path, contract: Contract, name: str
) -> None:
    """Names become paths, so they are one plain component."""
    source = written(tickets(), tmp_path / "a.parquet")
    with pytest.raises(BatchError, match="cannot be a folder's name"):
        land(source, landing, contract, "tickets", name)
    with pytest.raises(BatchError, match="cannot be a folder's name"):
        land(source, landing, contract, name)
    assert nothing_landed(landing)


def test_csv_that_is_not_utf8_is_refused_at_the_byte(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """Guessing an encoding would teach the model mojibake."""
    source = written(with_value(tickets(), "text", 2, "un café"), tmp_path / "a.csv")
    source.write_bytes(source.read_bytes().decode("utf-8").encode("latin-1"))
    place = source.read_bytes().index(b"\xe9")
    with pytest.raises(BatchCorrupt, match=rf"0xe9 at offset {place} \(line 4\).*iconv"):
        land(source, landing, contract, "tickets")
    assert nothing_landed(landing)


def test_a_split_character_at_a_block_s_edge_is_still_utf8(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """The file is decoded in blocks of a megabyte; characters do not respect them."""
    long = "é" * 90_000
    table = tickets(text=[f"{'x' * i}{long}" for i in range(12)])
    batch = land(written(table, tmp_path / "a.csv"), landing, contract, "tickets")
    assert rows_of(batch.folder, contract) == table.to_pylist()


def test_a_csv_value_of_the_wrong_type_is_named(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """CSV has no types of its own: the contract's are read into it."""
    source = written(tickets(score=["high"] * 12), tmp_path / "a.csv")
    with pytest.raises(BatchCorrupt, match="invalid value 'high'"):
        land(source, landing, contract, "tickets")
    assert nothing_landed(landing)


def test_an_empty_cell_is_a_null_and_the_word_null_is_a_text(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """People write NA and null; nobody writes nothing."""
    table = with_value(tickets(), "score", 1, None)
    for row, word in enumerate(["NA", "null", "NaN"]):
        table = with_value(table, "text", row, word)
    batch = land(written(table, tmp_path / "a.csv"), landing, contract, "tickets")
    assert rows_of(batch.folder, contract) == table.to_pylist()
    empty = tmp_path / "empty.csv"
    empty.write_text("ticket,text,label,team,at\nt1,,tech,n,2026-01-07T00:00:00Z\n")
    with pytest.raises(ContractViolation, match="text: null in 1 row"):
        land(empty, landing, contract, "tickets")


def test_csv_with_missing_and_extra_columns_is_judged_like_any_other(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """A header is a list of columns like a footer's."""
    source = written(tickets().rename_columns({"label": "lable"}), tmp_path / "a.csv")
    with pytest.raises(ContractViolation, match=r"label: missing column.*lable: extra column"):
        land(source, landing, contract, "tickets")


@pytest.mark.parametrize("twice", ["text", "at"])
def test_a_csv_header_that_names_a_column_twice_is_refused(
    tmp_path: Path, landing: Path, contract: Contract, twice: str
) -> None:
    """Which of the two would be learned?"""
    table = tickets()
    source = written(table.append_column(twice, table.column(twice)), tmp_path / "a.csv")
    with pytest.raises(ContractViolation, match=f"{twice}: column twice"):
        land(source, landing, contract, "tickets")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_file_without_rows_is_empty_and_does_not_land(
    tmp_path: Path, landing: Path, contract: Contract, suffix: str
) -> None:
    """Whether it has a header or not."""
    source = written(tickets().slice(0, 0), tmp_path / f"a{suffix}")
    if suffix == ".jsonl":
        source.write_bytes(b"")
    with pytest.raises(BatchEmpty):
        land(source, landing, contract, "tickets")
    assert nothing_landed(landing)


def test_a_truncated_parquet_file_does_not_land(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """Its footer is at its end."""
    source = written(tickets(), tmp_path / "a.parquet")
    source.write_bytes(source.read_bytes()[:-20])
    with pytest.raises(BatchCorrupt, match="truncated"):
        land(source, landing, contract, "tickets")
    assert nothing_landed(landing)


@pytest.mark.parametrize(("name", "said"), [("a.xlsx", "'.xlsx'"), ("no.csv", "no such file")])
def test_what_cannot_be_landed_is_said(
    tmp_path: Path, landing: Path, contract: Contract, name: str, said: str
) -> None:
    """The error lists what can."""
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(BatchError, match=f"{said}.*\\.parquet, \\.csv, \\.jsonl"):
        land(tmp_path / name, landing, contract, "tickets")
    assert nothing_landed(landing)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, landing: Path, contract: Contract, suffix: str
) -> None:
    """The operating system refuses to write on, as it does on a full disk."""
    source = written(tickets(5000), tmp_path / f"a{suffix}")
    with _files_of_at_most(20_000), pytest.raises(BatchError, match="Free space"):
        land(source, landing, contract, "tickets")
    assert nothing_landed(landing)


def test_a_landing_that_is_killed_leaves_no_batch_and_bars_no_other(
    tmp_path: Path, landing: Path, contract_file: Path, contract: Contract
) -> None:
    """All is written, nothing is published: the power fails just before the rename."""
    source = written(tickets(), tmp_path / "a.parquet")
    script = f"""
import os
from bhpeft.data import contract, land
land._publish = lambda *_: os._exit(9)
rules = contract.load_contract({str(contract_file)!r})
land.land({str(source)!r}, {str(landing)!r}, rules, "tickets")
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    [left] = (landing / "tickets").iterdir()
    assert left.name.startswith(".landing-")
    assert landed(landing, "tickets") == []
    assert land(source, landing, contract, "tickets").rows == 12


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
