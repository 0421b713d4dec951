from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bhpeft.data.batch import MANIFEST, Batch, landed, open_batch
from bhpeft.data.check import check
from bhpeft.data.contract import Contract
from bhpeft.data.land import land
from bhpeft.data.quarantine import quarantine, quarantined, release
from bhpeft.errors import BatchCorrupt, BatchError, BatchIncomplete, ContractViolation
from tests.data.conftest import Lander
from tests.data.tickets import tickets, with_value


def violation(batch: Batch, contract: Contract) -> ContractViolation:
    with pytest.raises(ContractViolation) as caught:
        check(batch, contract)
    return caught.value


def test_a_record_holds_the_reasons_and_the_failing_rows(
    lander: Lander, contract: Contract, tmp_path: Path
) -> None:
    """Whoever mends the batch needs nothing else."""
    table = with_value(with_value(tickets(), "label", 4, "x"), "text", 4, " ")
    batch = lander(with_value(table, "text", 9, None))
    error = violation(batch, contract)
    path = quarantine(batch, error, tmp_path / "quarantine")
    assert path.name == f"b1-{batch.digest[:8]}"
    record = json.loads((path / "record.json").read_text(encoding="utf-8"))
    assert record["digest"] == batch.digest
    assert record["error"] == "ContractViolation"
    assert record["message"] == error.message
    assert record["reasons"] == error.reasons
    rows = pq.read_table(path / "rows.parquet").to_pylist()
    assert [row["_row"] for row in rows] == [4, 9]
    assert set(rows[0]["_reasons"].split("; ")) == {"label: unknown value", "text: empty"}
    assert rows[0]["label"] == "x"


def test_doing_it_twice_changes_nothing(lander: Lander, contract: Contract, tmp_path: Path) -> None:
    """A retried round must not bury the first record."""
    batch = lander(with_value(tickets(), "label", 4, "x"))
    error = violation(batch, contract)
    first = quarantine(batch, error, tmp_path / "quarantine")
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    assert quarantine(batch, BatchCorrupt("something else"), tmp_path / "quarantine") == first
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == [first.name]


def test_the_batch_stays_where_it_landed(
    lander: Lander, contract: Contract, tmp_path: Path, landing: Path
) -> None:
    """Quarantine is a record, not a removal."""
    batch = lander(with_value(tickets(), "label", 4, "x"))
    quarantine(batch, violation(batch, contract), tmp_path / "quarantine")
    assert landed(landing, "tickets") == [batch]
    assert open_batch(batch.folder) == batch
    assert list(quarantined(tmp_path / "quarantine")) == [batch.digest]


def test_at_most_a_thousand_rows_are_kept(
    lander: Lander, contract: Contract, tmp_path: Path
) -> None:
    """A batch that is wrong throughout is not copied throughout."""
    batch = lander(tickets(2500, label=["x"] * 2500))
    path = quarantine(batch, violation(batch, contract), tmp_path / "quarantine")
    assert pq.read_metadata(path / "rows.parquet").num_rows == 1000


def test_long_texts_are_cut_in_the_record(
    lander: Lander, contract: Contract, tmp_path: Path
) -> None:
    """The batch still has them whole."""
    batch = lander(with_value(tickets(), "text", 0, "x" * 1_000_000))
    path = quarantine(batch, violation(batch, contract), tmp_path / "quarantine")
    assert pq.read_table(path / "rows.parquet").column("text").to_pylist() == ["x" * 10_000]


@pytest.mark.parametrize("fault", ["missing", "twice"])
def test_wrong_columns_show_the_first_rows(
    lander: Lander, contract: Contract, tmp_path: Path, fault: str
) -> None:
    """Every row is at fault; a few show how."""
    table = tickets()
    twice = table.append_column("at", table.column("at"))
    batch = lander(twice if fault == "twice" else table.drop_columns("text"))
    path = quarantine(batch, violation(batch, contract), tmp_path / "quarantine")
    assert pq.read_table(path / "rows.parquet").column("_row").to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["truncated", "bad manifest", "no manifest"])
def test_a_batch_that_cannot_be_read_is_quarantined_without_rows(
    lander: Lander, contract: Contract, tmp_path: Path, damage: str
) -> None:
    """The record is what keeps it from being tried again every minute."""
    batch = lander(tickets())
    where: Batch | Path = batch
    if damage == "truncated":
        batch.paths[0].write_bytes(batch.paths[0].read_bytes()[:100])
    elif damage == "bad manifest":
        where = batch.folder
        (batch.folder / MANIFEST).write_text("{", encoding="utf-8")
    else:
        where = batch.folder
        (batch.folder / MANIFEST).unlink()
    with pytest.raises((BatchCorrupt, BatchIncomplete)) as caught:
        open_batch(batch.folder)
    path = quarantine(where, caught.value, tmp_path / "quarantine")
    assert quarantine(where, caught.value, tmp_path / "quarantine") == path
    assert [p.name for p in path.iterdir()] == ["record.json"]
    [(digest, record)] = quarantined(tmp_path / "quarantine").items()
    assert record["batch_id"] == "b1"
    assert (digest == batch.digest) == (damage == "truncated")


def test_a_released_batch_is_pending_again_and_can_be_quarantined_again(
    lander: Lander, contract: Contract, tmp_path: Path
) -> None:
    """The contract may have been what was wrong; the record of it stays."""
    folder = tmp_path / "quarantine"
    batch = lander(with_value(tickets(), "label", 4, "x"))
    error = violation(batch, contract)
    path = quarantine(batch, error, folder)
    assert release(folder, batch.digest[:8], "ana", "the label is new") == path
    assert quarantined(folder) == {}
    assert (path / "record.json").exists()
    with pytest.raises(BatchError, match="No such batch is in quarantine"):
        release(folder, batch.digest, "ana", "again")
    quarantine(batch, error, folder)
    assert list(quarantined(folder)) == [batch.digest]


def test_an_empty_or_absent_quarantine_holds_nothing(tmp_path: Path) -> None:
    """A new stream has no folder yet."""
    assert quarantined(tmp_path / "nowhere") == {}


def test_parts_that_disagree_on_a_type_are_shown_as_text(
    landing: Path, contract: Contract, tmp_path: Path
) -> None:
    """The disagreement may be the very thing that is wrong."""
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(tickets(3), folder / "a.parquet")
    pq.write_table(tickets(3, score=["low", "high", "low"]), folder / "b.parquet")
    batch = land(folder, landing, contract, "tickets", validate=False)
    path = quarantine(batch, violation(batch, contract), tmp_path / "quarantine")
    scores = pq.read_table(path / "rows.parquet").column("score").to_pylist()
    assert scores[0] == "0.0"
    assert scores[3] == "low"
