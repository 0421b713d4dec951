from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from bhpeft.data import object_store
from bhpeft.data.batch import Batch
from bhpeft.data.check import check
from bhpeft.data.contract import Contract
from bhpeft.data.land import land
from bhpeft.data.landing_table import Table
from bhpeft.data.landings import Place, landing_at
from bhpeft.data.rows import read_rows
from bhpeft.errors import BatchCorrupt, LandingError
from tests.data.tickets import tickets


def numbered(start: int, rows: int = 6) -> pa.Table:
    keys = range(start, start + rows)
    return tickets(rows, ticket=[f"t{i}" for i in keys], text=[f"row {i}" for i in keys])


class Story:
    """A table and what has been learned from it."""

    def __init__(self, address: str, desk: Path, contract: Contract, rows: int = 100):
        self.address, self.contract = address, contract
        place = landing_at(Place(f"delta:{address}", "tickets", desk / "cache", rows))
        assert isinstance(place, Table)
        self.place = place
        self.settled: dict[str, str] = {}

    def append(self, start: int, rows: int = 6, **options: object) -> None:
        write_deltalake(
            self.address, numbered(start, rows), mode="append",
            storage_options=object_store.table_options(), **options,
        )  # fmt: skip

    @property
    def table(self) -> DeltaTable:
        return DeltaTable(self.address, storage_options=object_store.table_options())

    def waiting(self) -> list[Batch]:
        return self.place.landed(self.settled)

    def ids(self) -> list[str]:
        return [batch.batch_id for batch in self.waiting()]

    def learn(self) -> list[str]:
        """Settle the oldest batch; return its texts."""
        batch = self.waiting()[0]
        here = self.place.staged(batch, self.contract)
        check(here, self.contract)
        self.settled[batch.digest] = batch.batch_id
        return [r["text"] for c in read_rows(here, self.contract) for r in c.to_pylist()]


@pytest.fixture(params=["disk", "bucket"])
def story(request: pytest.FixtureRequest, tmp_path: Path, contract: Contract) -> Story:
    address = str(tmp_path / "table")
    if request.param == "bucket":
        address = f"s3://{request.getfixturevalue('bucket')}/table"
    return Story(address, tmp_path, contract)


def test_rows_past_the_cursor_are_learned_once_and_a_rollback_moves_the_cursor_back(
    story: Story,
) -> None:
    """The cursor is what is settled, which the registry's lineage says, and nothing else."""
    story.append(0)
    story.append(6)
    assert story.ids() == ["v0-v1"]
    assert story.learn() == [f"row {i}" for i in range(12)]
    assert story.ids() == []
    story.append(12)
    story.table.optimize.compact()
    [second] = story.waiting()
    assert (second.batch_id, second.rows) == ("v2-v2", 6)
    assert story.learn() == [f"row {i}" for i in range(12, 18)]
    del story.settled[second.digest]
    assert story.waiting() == [second]
    assert story.place.newest() == second.event_time


@pytest.fixture
def on_disk(tmp_path: Path, contract: Contract) -> Story:
    return Story(str(tmp_path / "table"), tmp_path, contract, rows=10)


def test_one_large_commit_is_several_batches(on_disk: Story) -> None:
    on_disk.append(0, 26)
    assert on_disk.ids() == ["v0-rows0-9", "v0-rows10-19", "v0-rows20-25"]
    texts = [on_disk.learn() for _ in range(3)]
    assert [text for part in texts for text in part] == [f"row {i}" for i in range(26)]
    assert [len(part) for part in texts] == [10, 10, 6]


def test_a_batch_that_waits_is_the_same_batch_when_more_is_appended(on_disk: Story) -> None:
    on_disk.append(0, 3)
    before = on_disk.waiting()
    on_disk.append(3, 3)
    assert on_disk.waiting()[:1] == before
    assert on_disk.ids() == ["v0-v0", "v1-v1"]


def test_a_partitioned_table_has_its_partition_s_values_in_the_rows(on_disk: Story) -> None:
    on_disk.append(0, 6, partition_by=["label"])
    [batch] = on_disk.waiting()
    here = on_disk.place.staged(batch, on_disk.contract)
    check(here, on_disk.contract)
    rows = {r["text"]: r["label"] for c in read_rows(here, on_disk.contract)
            for r in c.to_pylist()}  # fmt: skip
    assert rows == dict(zip(*numbered(0).select(["text", "label"]).to_pydict().values(),
                            strict=True))  # fmt: skip


def test_a_batch_is_held_as_long_as_its_versions_can_be_read(story: Story) -> None:
    story.append(0)
    story.append(6)
    [batch] = story.waiting()
    assert story.place.holding(batch.digest, batch.batch_id) == batch
    assert story.place.holding(batch.digest) is None
    assert story.place.holding("of another table", batch.batch_id) is None
    assert story.place.holding(batch.digest, "v0-v9") is None


def test_a_version_that_rewrites_rows_is_refused_by_name_and_the_next_is_learned(
    on_disk: Story,
) -> None:
    """Rewritten rows may have been learned; learning them again would count them twice."""
    on_disk.append(0)
    on_disk.learn()
    on_disk.table.delete("text = 'row 1'")
    assert on_disk.ids() == []
    on_disk.table.update(updates={"text": "'mended'"}, predicate="text = 'row 2'")
    on_disk.append(6)
    assert on_disk.ids() == ["v2-v2", "v3-v3"]
    [rewritten, _] = on_disk.waiting()
    with pytest.raises(BatchCorrupt, match="UPDATE, which rewrites rows"):
        on_disk.place.staged(rewritten, on_disk.contract)
    on_disk.settled[rewritten.digest] = rewritten.batch_id
    assert on_disk.learn() == [f"row {i}" for i in range(6, 12)]


def test_another_table_in_the_same_place_is_learned_from_its_beginning(
    on_disk: Story, tmp_path: Path
) -> None:
    """A batch's identity holds the table's: the same versions of another are other rows."""
    on_disk.append(0)
    on_disk.learn()
    (tmp_path / "table").rename(tmp_path / "before")
    on_disk.append(0)
    assert on_disk.ids() == ["v0-v0"]


def test_versions_before_the_first_that_is_wanted_are_not_learned(
    on_disk: Story, tmp_path: Path
) -> None:
    on_disk.append(0)
    on_disk.append(6)
    place = Table(on_disk.address, "tickets", tmp_path / "other", since=1)
    assert [batch.batch_id for batch in place.landed({})] == ["v1-v1"]


def test_files_that_were_vacuumed_before_they_were_learned_are_named(
    on_disk: Story,
) -> None:
    on_disk.append(0)
    on_disk.append(6)
    waiting = on_disk.waiting()
    on_disk.table.optimize.compact()
    on_disk.table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(BatchCorrupt, match="VACUUM's retention"):
        on_disk.place.staged(waiting[0], on_disk.contract)


def test_nothing_is_landed_in_a_table_and_a_table_that_is_not_there_is_named(
    on_disk: Story, tmp_path: Path
) -> None:
    with pytest.raises(LandingError, match="There is no Delta table"):
        on_disk.waiting()
    with pytest.raises(LandingError, match="Append the rows to the table"):
        land(tmp_path / "any.csv", on_disk.place, on_disk.contract, "tickets")
