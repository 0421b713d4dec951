from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhpeft.data import repeats as repeats_module
from bhpeft.data import rows as rows_module
from bhpeft.data.contract import Contract
from bhpeft.data.land import land
from bhpeft.data.repeats import Repeats
from bhpeft.data.rows import part_rows, read_rows, sample_rows
from bhpeft.errors import BatchCorrupt
from tests.data.conftest import Lander
from tests.data.tickets import tickets


def test_rows_come_in_order_in_the_contract_s_columns_and_types(
    lander: Lander, contract: Contract
) -> None:
    """Whatever order and types the producer chose."""
    table = tickets(50)
    other = table.select(list(reversed(table.column_names)))
    label = other.schema.get_field_index("label")
    encoded = table.column("label").cast(pa.dictionary(pa.int8(), pa.string()))
    batch = lander(other.set_column(label, "label", encoded))
    chunks = list(read_rows(batch, contract, chunk_rows=8))
    assert max(chunk.num_rows for chunk in chunks) == 8
    assert pa.Table.from_batches(chunks).cast(contract.arrow).equals(table.cast(contract.arrow))


def test_an_optional_column_that_a_part_lacks_comes_as_nulls(
    tmp_path: Path, landing: Path, contract: Contract
) -> None:
    """Parts of one batch may differ in optional columns; the rows do not."""
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(tickets().slice(0, 5), folder / "a.parquet")
    pq.write_table(tickets().slice(5).drop_columns("score"), folder / "b.parquet")
    batch = land(folder, landing, contract, "tickets")
    scores = pa.Table.from_batches(read_rows(batch, contract)).column("score")
    assert (len(scores), scores.null_count) == (12, 7)


def test_integer_labels_are_read_as_strings(lander: Lander, contract: Contract) -> None:
    """They are then the contract's labels, which are strings."""
    column = contract.column("label")
    columns = tuple(
        replace(c, logical_type="integer", values=(0, 1)) if c is column else c
        for c in contract.columns
    )
    numbered = replace(contract, columns=columns, labels=("0", "1"))
    batch = lander(tickets(label=pa.array([0, 1] * 6, pa.int16())))
    [rows] = read_rows(batch, numbered)
    assert rows.column("label").to_pylist() == ["0", "1"] * 6


def test_large_rows_are_read_few_at_a_time(
    lander: Lander, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded in bytes, not only in rows."""
    generator = np.random.default_rng(0)
    texts = [generator.bytes(2000).hex() for _ in range(100)]
    batch = lander(tickets(100, text=texts))
    monkeypatch.setattr(rows_module, "CHUNK_BYTES", 40_000)
    sizes = [rows.num_rows for _, rows in part_rows(batch, 4096)]
    assert sum(sizes) == 100
    assert max(sizes) <= 10


def test_a_part_that_vanishes_is_corruption(lander: Lander, contract: Contract) -> None:
    """Somebody cleans up while the round runs."""
    batch = lander(tickets())
    batch.paths[0].unlink()
    with pytest.raises(BatchCorrupt, match=r"part-00000\.parquet"):
        list(read_rows(batch, contract))


def test_a_sample_is_drawn_without_replacement_in_order_and_by_its_seed(
    lander: Lander, contract: Contract
) -> None:
    """The same seed gives the same rows; asking for more than there are gives all."""
    table = tickets(9000)
    batch = lander(table)
    drawn = sample_rows(batch, contract, 500, seed=1)
    places = [int(ticket[1:]) for ticket in drawn.column("ticket").to_pylist()]
    assert len(set(places)) == 500
    assert places == sorted(places)
    # Uniform over the batch: the mean place is within five standard errors of the middle.
    assert abs(np.mean(places) - 4500) < 5 * 9000 / (12 * 500) ** 0.5
    assert sample_rows(batch, contract, 500, seed=1).equals(drawn)
    assert not sample_rows(batch, contract, 500, seed=2).equals(drawn)
    assert sample_rows(batch, contract, 10**6, seed=1).num_rows == 9000


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xy"))), st.integers(1, 7))
def test_repeats_are_what_pandas_calls_duplicated_whatever_the_chunks(
    rows: list[tuple[str, str]], chunk: int
) -> None:
    """The second and every later occurrence, over chunks as within one."""
    frame = pd.DataFrame(rows, columns=["text", "label"])
    repeats = Repeats(["text", "label"])
    for start in range(0, len(frame), chunk):
        repeats.add(frame.iloc[start : start + chunk])
    assert repeats.rows().tolist() == np.flatnonzero(frame.duplicated()).tolist()


def test_repeats_are_found_alike_when_they_lie_in_a_file_and_are_looked_at_range_by_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Millions of rows are remembered outside memory; what is found must not depend on it."""
    texts = np.random.default_rng(0).integers(0, 700, size=1000).astype(str)
    frame = pd.DataFrame({"text": texts})
    monkeypatch.setattr(repeats_module, "_AT_ONCE", 64)
    repeats = Repeats(["text"])
    for start in range(0, len(frame), 90):
        repeats.add(frame.iloc[start : start + 90])
    assert repeats.rows().tolist() == np.flatnonzero(frame.duplicated()).tolist()
