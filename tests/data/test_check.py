from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from bhpeft.data import row_checks
from bhpeft.data.batch import file_sha256
from bhpeft.data.check import check
from bhpeft.data.contract import Contract
from bhpeft.errors import BatchCorrupt, BatchEmpty, ContractViolation
from tests.data.conftest import Lander
from tests.data.tickets import tickets, with_value


def reasons(lander: Lander, contract: Contract, table: pa.Table) -> dict[tuple[str, str], Any]:
    """Return what is wrong with a table, by column and check."""
    with pytest.raises(ContractViolation) as caught:
        check(lander(table), contract)
    return {(r["column"], r["check"]): r for r in caught.value.reasons}


def test_a_good_batch_passes(lander: Lander, contract: Contract) -> None:
    """The table every other test spoils in one way is good."""
    check(lander(tickets()), contract)


def test_a_missing_column_is_named(lander: Lander, contract: Contract) -> None:
    """A required column must be there; nothing else is judged without it."""
    found = reasons(lander, contract, tickets().drop_columns("label"))
    assert list(found) == [("label", "missing column")]
    assert found["label", "missing column"]["rows"] == 12


def test_an_extra_column_is_refused_with_the_column_it_may_be(
    lander: Lander, contract: Contract
) -> None:
    """A misspelt column is two errors that explain each other."""
    found = reasons(lander, contract, tickets().rename_columns({"text": "txet"}))
    assert set(found) == {("text", "missing column"), ("txet", "extra column")}
    assert "'text'" in found["txet", "extra column"]["expected"]


def test_the_index_that_pandas_wrote_is_explained(lander: Lander, contract: Contract) -> None:
    """The most frequent extra column is one nobody knows they have."""
    table = tickets().append_column("__index_level_0__", pa.array(range(12)))
    found = reasons(lander, contract, table)
    assert "index=False" in found["__index_level_0__", "extra column"]["expected"]


def test_a_mistyped_column_says_what_it_is_and_should_be(
    lander: Lander, contract: Contract
) -> None:
    """Types are not guessed: numbers written as text are a producer's mistake."""
    found = reasons(lander, contract, tickets(score=[str(i) for i in range(12)]))
    assert found["score", "type"]["examples"][0]["value"] == "string"
    assert found["score", "type"]["expected"] == "a number"


def test_a_column_with_the_same_name_twice_is_refused(lander: Lander, contract: Contract) -> None:
    """Which of the two would be learned?"""
    table = tickets()
    table = table.append_column("text", table.column("text"))
    assert ("text", "column twice") in reasons(lander, contract, table)


def test_an_unknown_label_is_counted_with_examples(lander: Lander, contract: Contract) -> None:
    """A label outside the contract has no row in the classifier's head."""
    found = reasons(lander, contract, with_value(tickets(), "label", 7, "shipping"))
    assert found["label", "unknown value"] == {
        "column": "label",
        "check": "unknown value",
        "rows": 1,
        "expected": "one of billing, tech",
        "examples": [{"row": 7, "value": "shipping"}],
        "row_numbers": [7],
    }


@pytest.mark.parametrize("empty", ["", "   ", "\n\t"])
def test_an_empty_text_is_refused(lander: Lander, contract: Contract, empty: str) -> None:
    """White space is no text."""
    found = reasons(lander, contract, with_value(tickets(), "text", 3, empty))
    assert found["text", "empty"]["row_numbers"] == [3]


@pytest.mark.parametrize("column", ["text", "label", "ticket", "team", "at"])
def test_a_null_in_a_required_column_is_refused(
    lander: Lander, contract: Contract, column: str
) -> None:
    """Columns with a role that learning needs are required without saying so."""
    found = reasons(lander, contract, with_value(tickets(), column, 2, None))
    assert found[column, "null"]["row_numbers"] == [2]
    assert found[column, "null"]["examples"] == [{"row": 2, "value": None}]


def test_a_null_in_an_optional_column_passes(lander: Lander, contract: Contract) -> None:
    """Optional means that a value may be missing, and the whole column too."""
    check(lander(with_value(tickets(), "score", 2, None), "nulls"), contract)
    check(lander(tickets().drop_columns("score"), "without"), contract)
    check(lander(tickets(score=pa.nulls(12)), "untyped"), contract)


def test_a_text_of_a_megabyte_is_refused_and_not_repeated_in_the_error(
    lander: Lander, contract: Contract
) -> None:
    """The reason says how long it was; the error stays a line."""
    found = reasons(lander, contract, with_value(tickets(), "text", 0, "long " * 200_000))
    example = found["text", "length"]["examples"][0]["value"]
    assert "1000000 characters" in example
    assert len(example) < 120
    assert "100000 characters" in found["text", "length"]["expected"]


def test_a_repeated_key_is_refused_however_far_apart(
    lander: Lander, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uniqueness holds over the whole batch, not over the chunk it is read in."""
    monkeypatch.setattr(row_checks, "CHUNK_ROWS", 5)
    found = reasons(lander, contract, with_value(tickets(40), "ticket", 33, "t1"))
    assert found["ticket", "unique"]["rows"] == 1
    assert found["ticket", "unique"]["examples"] == [{"row": 33, "value": "t1"}]


def test_many_duplicate_rows_are_refused_and_few_are_not(
    lander: Lander, contract: Contract
) -> None:
    """Repeats count twice in the posterior: 5 % of them shrink σ by 2.5 %, more is a mistake."""
    texts = tickets(100).column("text").to_pylist()
    few = [*texts[:98], *texts[:2]]
    check(lander(tickets(100, text=few), "few"), contract)
    many = [*texts[:90], *texts[:10]]
    found = reasons(lander, contract, tickets(100, text=many))
    assert found["text", "duplicate rows"]["rows"] == 10
    assert found["text", "duplicate rows"]["row_numbers"] == list(range(90, 100))


def test_the_same_text_under_another_label_is_not_a_duplicate(
    lander: Lander, contract: Contract
) -> None:
    """People disagree; that is information."""
    check(lander(tickets(6, text=["the same words"] * 2 + list("abcd"))), contract)


def test_a_value_out_of_range_is_refused(lander: Lander, contract: Contract) -> None:
    """Bounds are inclusive, as the standard's minimum and maximum are."""
    found = reasons(lander, contract, with_value(tickets(score=[1.0] * 12), "score", 4, 1.5))
    assert found["score", "range"]["row_numbers"] == [4]
    assert found["score", "range"]["expected"] == "at least 0 and at most 1"


def test_everything_that_is_wrong_is_said_at_once(lander: Lander, contract: Contract) -> None:
    """Whoever mends a batch wants the whole list."""
    table = with_value(with_value(tickets(), "label", 1, "x"), "text", 2, None)
    table = with_value(table, "score", 3, -1.0)
    found = reasons(lander, contract, table)
    assert set(found) == {("label", "unknown value"), ("text", "null"), ("score", "range")}


def test_the_error_is_one_line_that_a_person_on_call_can_act_on(
    lander: Lander, contract: Contract
) -> None:
    """It says what was found, what was expected and what to do."""
    with pytest.raises(ContractViolation) as caught:
        check(lander(with_value(tickets(), "label", 1, "shipping")), contract)
    assert str(caught.value) == (
        "The batch tickets/b1 breaks the contract tickets 1.2.0; "
        "found label: unknown value in 1 row ('shipping'), expected one of billing, tech. "
        "Mend it and land it under a new batch id, or change the contract and its version."
    )


def test_row_numbers_are_capped_and_counts_are_not(lander: Lander, contract: Contract) -> None:
    """An error about a million rows must not weigh a million rows."""
    found = reasons(lander, contract, tickets(3000, label=["x"] * 3000))
    assert found["label", "unknown value"]["rows"] == 3000
    assert len(found["label", "unknown value"]["examples"]) == 5
    assert found["label", "unknown value"]["row_numbers"] == list(range(1000))


def test_too_few_rows_are_refused(lander: Lander, contract: Contract) -> None:
    """The contract says more than four."""
    found = reasons(lander, contract, tickets(4))
    assert found[None, "row count"]["expected"] == "at least 5 rows"


def test_an_empty_batch_is_its_own_error(lander: Lander, contract: Contract) -> None:
    """Nothing happened is not the same as something is wrong."""
    with pytest.raises(BatchEmpty, match="0 rows"):
        check(lander(tickets().slice(0, 0)), contract)


def test_freshness_is_judged_as_of_the_landing(lander: Lander, contract: Contract) -> None:
    """Waiting in the queue, or a rollback, does not make data staler; arriving late does."""
    batch = lander(tickets())
    check(batch, contract)
    with pytest.raises(ContractViolation, match="stale"):
        check(batch, contract, now=datetime.now(UTC) + timedelta(days=4))


def test_times_in_the_future_are_refused_beyond_a_day_of_clock_error(
    lander: Lander, contract: Contract
) -> None:
    """A batch from tomorrow week was not measured."""
    ahead = datetime.now(UTC) + timedelta(hours=20)
    check(lander(with_value(tickets(), "at", 5, ahead), "today"), contract)
    found = reasons(lander, contract, with_value(tickets(), "at", 5, ahead + timedelta(days=7)))
    assert found["at", "future"]["row_numbers"] == [5]
    assert (None, "future") in found


def test_another_major_version_of_the_contract_is_refused(
    lander: Lander, contract: Contract
) -> None:
    """A minor version only adds what old batches already keep."""
    batch = lander(tickets())
    check(batch, _at_version(contract, "1.9.0"))
    with pytest.raises(ContractViolation, match="contract version"):
        check(batch, _at_version(contract, "2.0.0"))


def test_dictionary_large_and_nanosecond_columns_are_the_same_data(
    lander: Lander, contract: Contract
) -> None:
    """Producers' writers differ in what they mean nothing by."""
    table = tickets()
    table = tickets(
        label=table.column("label").cast(pa.dictionary(pa.int32(), pa.string())),
        text=table.column("text").cast(pa.large_string()),
        at=table.column("at").cast(pa.timestamp("ns")),
        score=pa.array([0, 1] * 6, pa.int8()),
    )
    check(lander(table), contract)


def test_bytes_that_are_not_utf8_are_found_inside_parquet(
    lander: Lander, contract: Contract
) -> None:
    """Parquet readers trust the writer; a tokenizer would not survive it."""
    values = pa.array([b"caf\xe9", *[f"text {i}".encode() for i in range(11)]], pa.binary())
    table = tickets(text=values.view(pa.string()))
    found = reasons(lander, contract, table)
    assert found["text", "encoding"]["examples"] == [{"row": 0, "value": "caf\\xe9"}]


def test_rows_that_the_manifest_does_not_promise_are_corruption(
    lander: Lander, contract: Contract
) -> None:
    """The footers must add up to the manifest."""
    batch = lander(tickets())
    part = batch.manifest.files[0].model_copy(update={"rows": 13})
    manifest = batch.manifest.model_copy(update={"files": (part,), "rows": 13})
    with pytest.raises(BatchCorrupt, match=r"12 rows in part-00000\.parquet; expected 13"):
        check(_with_manifest(batch, manifest), contract)


def test_a_page_damaged_behind_a_good_footer_is_corruption(
    lander: Lander, contract: Contract
) -> None:
    """A producer may hash a file that was already broken."""
    batch = lander(tickets(2000))
    path = batch.paths[0]
    content = bytearray(path.read_bytes())
    content[4:4000] = b"\xff" * 3996
    path.write_bytes(content)
    part = batch.manifest.files[0].model_copy(update={"sha256": file_sha256(path)})
    manifest = batch.manifest.model_copy(update={"files": (part,)})
    with pytest.raises(BatchCorrupt, match="cannot be read"):
        check(_with_manifest(batch, manifest), contract)


def _at_version(contract: Contract, version: str) -> Contract:
    return replace(contract, version=version)


def _with_manifest(batch: Any, manifest: Any) -> Any:
    return replace(batch, manifest=manifest)
