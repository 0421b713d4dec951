from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import jsonschema
import pyarrow as pa
import pytest
import yaml

from bhpeft.data.contract import DEFAULT_MAX_LENGTH, load_contract
from bhpeft.errors import ContractFileError
from bhpeft.stream import read_stream
from tests.data.conftest import CONTRACT, odcs_json_schema

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "data_contracts").glob("*.odcs.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_contracts_are_valid_under_the_standard_s_own_json_schema(path: Path) -> None:
    """What we call ODCS is ODCS, so other tools can read it."""
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), odcs_json_schema())
    stream = read_stream(ROOT / "deploy" / "streams" / f"{path.name.split('.')[0]}.toml", ROOT)
    contract = load_contract(path, stream.task.value.needs)
    assert bool(contract.labels) == stream.task.value.needs.listed


def test_roles_labels_and_rules_are_read_from_the_file(contract_file: Path) -> None:
    """One file says everything about a stream's batches."""
    contract = load_contract(contract_file)
    assert (contract.name, contract.version) == ("tickets", "1.2.0")
    assert (contract.text, contract.label, contract.key) == ("text", "label", "ticket")
    assert contract.labels == ("billing", "tech")
    assert contract.slices == ("team",)
    assert contract.event_time == "at"
    assert contract.max_age == timedelta(days=3)
    assert contract.min_rows == 5  # more than 4
    assert contract.column("ticket").unique
    assert contract.column("ticket").required
    assert contract.column("text").max_length == DEFAULT_MAX_LENGTH
    assert (contract.column("score").minimum, contract.column("score").maximum) == (0, 1)


def test_the_arrow_schema_has_the_contract_s_types_and_nullability(contract_file: Path) -> None:
    """A nullable field is one the contract does not require."""
    schema = load_contract(contract_file).arrow
    assert schema.field("text") == pa.field("text", pa.string(), nullable=False)
    assert schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert schema.field("score") == pa.field("score", pa.float64(), nullable=True)


def test_a_column_may_play_two_roles(tmp_path: Path) -> None:
    """`bhpeft.role` is one role or a list: a label can be sliced by as well."""
    both = CONTRACT.replace("value: label}", "value: [label, slice]}")
    assert load_contract(_written(tmp_path, both)).slices == ("label", "team")


def test_integer_labels_are_given_as_strings(tmp_path: Path) -> None:
    """Labels are strings from the contract on, whatever the file's type."""
    text = CONTRACT.replace("[billing, tech]", "[0, 1]").replace(
        "- name: label\n        logicalType: string", "- name: label\n        logicalType: integer"
    )
    contract = load_contract(_written(tmp_path, text))
    assert contract.labels == ("0", "1")
    assert contract.arrow.field("label").type == pa.int64()


WRONG = {
    "no text role": ("value: text}", "value: slice}", "which column is the text", "value: text"),
    "two labels": ("value: slice}", "value: label}", "more than one column", "all but one"),
    "no labels": ("validValues: [billing, tech]", "validValues: []", "labels", "validValues: ["),
    "a label yes": ("[billing, tech]", "[yes, no]", "another type", "quotes"),
    "misspelt key": ("required: true", "requierd: true", "does not know", "'required'"),
    "misspelt top": ("status: active", "staus: active", "not an Open Data", "'status'"),
    "unknown role": ("value: slice}", "value: slise}", "a role that", "'slice'"),
    "our property": ("bhpeft.role, value: key", "bhpeft.rol, value: key", "custom", "bhpeft.role"),
    "type": ("logicalType: number", "logicalType: numbr", "logicalType", "'number'"),
    "option": ("{minLength: 1}", "{minLenght: 1}", "logicalTypeOptions", "'minLength'"),
    "optional text": ("required: true", "required: false", "may be null", "required: true"),
    "rule": ("metric: rowCount", "metric: nullValues", "does not enforce", "type: text"),
    "sla": ("unit: d", "unit: fortnights", "SLA", "value: 24, unit: h"),
    "kind": ("kind: DataContract", "kind: Contract", "kind: Contract", "top of the file"),
    "version": ("version: 1.2.0\n", "", "no version", "version: 1.0.0"),
    "yaml": ("schema:", "schema: [", "not YAML", "line"),
    "twice": ("- name: team", "- name: text", "two of one name", "once"),
    "time as text": ("logicalType: timestamp", "logicalType: string", "event_time", "type"),
}


@pytest.mark.parametrize(("old", "new", "what", "remedy"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_contract_is_refused_with_how_to_write_it(
    tmp_path: Path, old: str, new: str, what: str, remedy: str
) -> None:
    """Nothing in a contract is silently ignored, and the error shows the mending."""
    assert old in CONTRACT
    with pytest.raises(ContractFileError) as caught:
        load_contract(_written(tmp_path, CONTRACT.replace(old, new)))
    assert what in caught.value.message
    assert remedy in caught.value.message


def test_a_missing_contract_names_the_path(tmp_path: Path) -> None:
    """The usual mistake is the path in the stream file."""
    with pytest.raises(ContractFileError, match=r"nowhere\.yaml cannot be read"):
        load_contract(tmp_path / "nowhere.yaml")


def _written(folder: Path, text: str) -> Path:
    path = folder / "contract.odcs.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_other_bounds_of_the_standard_are_read(tmp_path: Path) -> None:
    """Patterns, open bounds, most rows, the share of repeats and an enum of values."""
    text = (
        CONTRACT.replace("{minimum: 0, maximum: 1}", "{exclusiveMinimum: 0, exclusiveMaximum: 1}")
        .replace("{minLength: 1}", "{minLength: 1, pattern: '[a-z]'}")
        .replace(
            "metric: rowCount, mustBeGreaterThan: 4", "metric: rowCount, mustBeBetween: [5, 9]"
        )
        .replace(
            "slaProperties",
            "      - {metric: duplicateValues, unit: percent, mustBeLessThan: 20}\nslaProperties",
        )
        .replace("- name: team", "- name: team\n        enum: [{value: north}, {value: south}]")
    )
    contract = load_contract(_written(tmp_path, text))
    assert (contract.column("score").above, contract.column("score").below) == (0, 1)
    assert contract.column("text").pattern == "[a-z]"
    assert (contract.min_rows, contract.max_rows) == (5, 9)
    assert contract.max_duplicate_share == 0.2
    assert contract.column("team").values == ("north", "south")
