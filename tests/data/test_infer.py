from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from bhpeft.data.contract import Contract, load_contract
from bhpeft.data.infer import infer_contract
from bhpeft.data.land import land
from bhpeft.errors import BatchError, ContractFileError
from bhpeft.tasks import task
from tests.data.conftest import odcs_json_schema


def shop_reviews(rows: int = 60) -> pa.Table:
    """Return a table whose columns are called nothing in particular."""
    words = ["bad", "fine", "great"]
    return pa.table(
        {
            "review_id": [f"r{i}" for i in range(rows)],
            "body": [f"the thing I bought was {words[i % 3]}, number {i}" for i in range(rows)],
            "sentiment": [words[i % 3] for i in range(rows)],
            "shop": [["north", "süd"][i % 2] for i in range(rows)],
            "stars": [i % 5 for i in range(rows)],
        }
    )


def loaded(folder: Path, text: str) -> Contract:
    """Write a contract, check it against the standard and load it."""
    jsonschema.validate(yaml.safe_load(text), odcs_json_schema())
    path = folder / "inferred.odcs.yaml"
    path.write_text(text, encoding="utf-8")
    return load_contract(path)


def test_a_contract_inferred_from_a_sample_accepts_the_sample(tmp_path: Path) -> None:
    """The first batch of a newcomer lands."""
    sample = tmp_path / "sample.parquet"
    pq.write_table(shop_reviews(), sample)
    contract = loaded(tmp_path, infer_contract(sample, "shop"))
    assert (contract.text, contract.label, contract.key) == ("body", "sentiment", "review_id")
    assert contract.labels == ("bad", "fine", "great")
    assert contract.slices == ("shop",)
    assert contract.column("stars").logical_type == "integer"
    assert land(sample, tmp_path / "landing", contract, "shop").rows == 60


def test_csv_samples_are_read_too(tmp_path: Path) -> None:
    """What a spreadsheet exports is where most people start."""
    sample = tmp_path / "sample.csv"
    pyarrow.csv.write_csv(shop_reviews(), sample)
    contract = loaded(tmp_path, infer_contract(sample, "shop"))
    assert (contract.text, contract.label) == ("body", "sentiment")
    assert land(sample, tmp_path / "landing", contract, "shop").rows == 60


def test_json_lines_samples_are_read_too(tmp_path: Path) -> None:
    """A key that is left out is a null of an optional column."""
    rows = shop_reviews().to_pylist()
    del rows[3]["stars"]
    sample = tmp_path / "sample.jsonl"
    sample.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    contract = loaded(tmp_path, infer_contract(sample, "shop"))
    assert (contract.text, contract.label) == ("body", "sentiment")
    assert land(sample, tmp_path / "landing", contract, "shop").rows == 60


def test_columns_and_labels_can_be_named(tmp_path: Path) -> None:
    """The person knows better than the sample."""
    sample = tmp_path / "sample.parquet"
    pq.write_table(shop_reviews(), sample)
    text = infer_contract(sample, "shop", label="shop", labels=("north", "süd", "east"))
    contract = loaded(tmp_path, text)
    assert contract.label == "shop"
    assert contract.labels == ("north", "süd", "east")
    with pytest.raises(ContractFileError, match="Did you mean 'body'"):
        infer_contract(sample, "shop", text="boddy")


def test_without_a_sample_there_is_a_template_that_loads(tmp_path: Path) -> None:
    """It is a contract from the first minute, to be edited."""
    contract = loaded(tmp_path, infer_contract(None, "my-stream", labels=("ham", "spam")))
    assert contract.name == "my-stream"
    assert contract.labels == ("ham", "spam")
    assert "# How old" in infer_contract(None, "my-stream")


def test_names_that_yaml_would_misread_are_quoted(tmp_path: Path) -> None:
    """A column called `no` or `a: b` is a name like any other."""
    table = shop_reviews().rename_columns({"shop": "no", "stars": "a: #b"})
    sample = tmp_path / "sample.parquet"
    pq.write_table(table, sample)
    contract = loaded(tmp_path, infer_contract(sample, "1: x"))
    assert {"no", "a: #b"} <= {column.name for column in contract.columns}


def test_a_sample_without_a_label_says_what_it_has(tmp_path: Path) -> None:
    """And how to name one."""
    sample = tmp_path / "sample.parquet"
    pq.write_table(shop_reviews().select(["review_id", "body"]), sample)
    with pytest.raises(ContractFileError, match=r"could be the label; found review_id.*--label"):
        infer_contract(sample, "shop")


def test_a_sample_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """With the reason of whoever tried."""
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for name in ("a.parquet", "missing.csv", "a.docx"):
        with pytest.raises(BatchError, match="cannot be read"):
            infer_contract(tmp_path / name, "shop")


def asked(folder: Path, text: str, kind: str) -> Contract:
    """Check a contract against the standard and load it for a task."""
    jsonschema.validate(yaml.safe_load(text), odcs_json_schema())
    path = folder / "inferred.odcs.yaml"
    path.write_text(text, encoding="utf-8")
    return load_contract(path, task(kind).needs)


@pytest.mark.parametrize("kind", ["regression", "choice", "causal_lm"])
def test_every_task_has_a_template_that_loads(tmp_path: Path, kind: str) -> None:
    needs = task(kind).needs
    contract = asked(tmp_path, infer_contract(None, "mine", needs=needs), kind)
    assert contract.text == needs.roles[0]
    assert contract.option_list == (kind == "choice")
    assert bool(contract.label) == (kind != "causal_lm")


def test_a_sample_shows_which_number_is_predicted(tmp_path: Path) -> None:
    """One that is called like it before any other; texts alone are enough for a language model."""
    sample = tmp_path / "sample.parquet"
    pq.write_table(shop_reviews(), sample)
    text = infer_contract(sample, "shop", needs=task("regression").needs)
    contract = asked(tmp_path, text, "regression")
    assert (contract.text, contract.label, contract.labels) == ("body", "stars", ())
    assert land(sample, tmp_path / "landing", contract, "shop").rows == 60
    text = infer_contract(sample, "shop", needs=task("causal_lm").needs)
    contract = asked(tmp_path, text, "causal_lm")
    assert (contract.text, contract.label) == ("body", "")


def test_a_sample_of_questions_shows_its_lists_of_options(tmp_path: Path) -> None:
    rows = 60
    table = pa.table(
        {
            "question": [
                f"which of these is wet, and has been since {row}?" for row in range(rows)
            ],
            "choices": [["sea", f"sand {row}", "sky"] for row in range(rows)],
            "answer": ["ABC"[row % 3] for row in range(rows)],
        }
    )
    sample = tmp_path / "sample.parquet"
    pq.write_table(table, sample)
    text = infer_contract(sample, "quiz", needs=task("choice").needs)
    contract = asked(tmp_path, text, "choice")
    assert (contract.text, contract.options, contract.label) == ("question", ("choices",), "answer")
    assert contract.labels == ("A", "B", "C")
    assert land(sample, tmp_path / "landing", contract, "quiz").rows == rows
    pq.write_table(table.drop(["choices"]), sample)
    with pytest.raises(ContractFileError, match=r"could be the options.*by hand"):
        infer_contract(sample, "quiz", needs=task("choice").needs)
