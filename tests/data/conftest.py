"""Small real batches: a contract file, a table that keeps it, and landing folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract, load_contract
from bhpeft.data.land import land

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:bhpeft:tickets
name: tickets
version: 1.2.0
status: active
schema:
  - name: tickets
    properties:
      - name: ticket
        logicalType: string
        customProperties: [{property: bhpeft.role, value: key}]
      - name: text
        logicalType: string
        required: true
        logicalTypeOptions: {minLength: 1}
        customProperties: [{property: bhpeft.role, value: text}]
      - name: label
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: label}]
        quality:
          - {type: library, metric: invalidValues, arguments: {validValues: [billing, tech]},
             mustBe: 0}
      - name: team
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: slice}]
      - name: at
        logicalType: timestamp
        customProperties: [{property: bhpeft.role, value: event_time}]
      - {name: score, logicalType: number, logicalTypeOptions: {minimum: 0, maximum: 1}}
    quality:
      - {type: library, metric: rowCount, mustBeGreaterThan: 4}
slaProperties:
  - {property: latency, value: 3, unit: d}
"""

Lander = Callable[..., Batch]


def odcs_json_schema() -> Any:
    """Return the standard's own JSON schema, which its package ships."""
    package = resources.files("open_data_contract_standard")
    return json.loads((package / "schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def contract_file(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.odcs.yaml"
    path.write_text(CONTRACT, encoding="utf-8")
    return path


@pytest.fixture
def contract(contract_file: Path) -> Contract:
    return load_contract(contract_file)


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    return tmp_path / "landing"


@pytest.fixture
def lander(tmp_path: Path, landing: Path, contract: Contract) -> Lander:
    """Land a table without judging it, under the id `b1` unless told otherwise."""

    def put(table: pa.Table, batch_id: str = "b1", validate: bool = False) -> Batch:
        source = tmp_path / f"{batch_id}.parquet"
        pq.write_table(table, source)
        return land(source, landing, contract, "tickets", batch_id, validate=validate)

    return put
