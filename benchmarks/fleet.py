"""Make a home of many streams that have been at work: files, landed batches, an MLflow database.

One stream is given its history through the registry's own calls: three versions (two promoted, one
held), a failed round, moves. The others are copies of its rows in the database under their own
names and ids, since calls for all of them would take minutes. Kept in `.cache/benchmarks`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from benchmarks.streams import deliver, registry_of, stream
from bhpeft.errors import FitError
from bhpeft.registry import Registry
from bhpeft.registry.records import prefixed
from bhpeft.registry.registration import facts_of
from bhpeft.registry.versions import Versions
from bhpeft.stream import Stream
from bhpeft.stream_template import TEMPLATE

KEPT = Path(".cache/benchmarks")
ROUNDS = ("promoted", "promoted", "held")

# Tables whose rows belong to a stream, those that others point at first.
TABLES = (
    "experiments", "experiment_tags", "runs", "tags", "params", "metrics", "latest_metrics",
    "registered_models", "registered_model_tags", "registered_model_aliases", "model_versions",
    "model_version_tags",
)  # fmt: skip


def fleet(streams: int) -> Path:
    """Return the home of so many streams, made on first use."""
    made_by = sha256(Path(__file__).read_bytes() + version("mlflow").encode()).hexdigest()[:8]
    home = KEPT / f"fleet-{streams}-{made_by}"
    if not home.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as desk:
            make(Path(desk, "home"), [f"stream-{number:04d}" for number in range(streams)])
            os.replace(Path(desk, "home"), home)
    return home


def make(home: Path, names: list[str]) -> None:
    """Make a home with these streams, which all have the same history."""
    first = _stream(home, names[0])
    _lived(first)
    for name in names[1:]:
        shutil.copytree(first.landing / first.name, first.landing / name)
        _stream(home, name)
    with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
        for number, name in enumerate(names[1:], start=1):
            _copied(database, first.name, name, number)


def _stream(home: Path, name: str) -> Stream:
    """Write a stream's file, its tables as `bhpeft init` writes them."""
    return stream(home, name, sections="[model]" + TEMPLATE.partition("[model]")[2])


def _lived(first: Stream) -> None:
    """Land four batches, decide about three of them, and let the fourth fail once."""
    batches = [
        deliver(first, pd.DataFrame({"text": [f"day {day}"], "label": ["positive"]}), day)
        for day in range(len(ROUNDS) + 1)
    ]
    registry = registry_of(first)
    parent = None
    for decision, batch in zip(ROUNDS, batches, strict=False):
        number = _entered(registry, first.name, batch.batch_id, batch.digest, parent, decision)
        if decision == "promoted":
            why = {"by": "a benchmark", "reason": "8 of 8 gates passed, none failed"}
            registry.promote(first.name, number, expected_parent=parent, **why)
            parent = number
        else:
            registry.hold(first.name, number, by="a benchmark", reason="drift: extreme")
    last = batches[-1]
    with (
        suppress(FitError),
        registry.round_run(first.name, last.batch_id, digest=last.digest, parent=parent),
    ):
        raise FitError("Training took longer than it may")


def _entered(
    registry: Registry, stream: str, batch: str, digest: str, parent: int | None, decision: str
) -> int:
    """Enter a version with as many tags and figures as a round's, and no files."""
    versions, figures = Versions(registry.connection), {f"holdout/{n}": n / 64 for n in range(64)}
    verdict = {"gate": "nll", "outcome": "pass", "reason": "x" * 100, "value": 0.1, "limit": 0.2}
    versions.ensure_stream(stream)
    with registry.round_run(stream, batch, digest=digest, parent=parent) as run:
        run.params({f"plan/{number}": number for number in range(24)})
        run.metrics(figures)
        facts = {**facts_of(run, decision), "verdicts": [verdict] * 8, "metrics": figures}
        made = registry.connection.client.create_model_version(
            stream, "file:///dev/null", run.run_id, tags=prefixed(facts), description="x" * 1000
        )
    return int(made.version)


def _copied(database: sqlite3.Connection, first: str, name: str, number: int) -> None:
    """Copy all rows of the first stream under another name: text by text, id by id."""
    runs = [row[0] for row in database.execute(
        "SELECT run_uuid FROM runs JOIN experiments USING (experiment_id)"
        " WHERE experiments.name IN (?, ?)", (f"bhpeft/{first}", f"bhpeft/{first}/moves"),
    )]  # fmt: skip
    renamed = {first: name, **{run: f"{number:06x}{run[6:]}" for run in runs}}
    for table in TABLES:
        columns, rows = _rows(database, table, first, runs)
        places = ", ".join("?" * len(columns))
        database.executemany(
            f"INSERT INTO {table} VALUES ({places})",
            [_changed(columns, row, renamed, number) for row in rows],
        )


def _rows(
    database: sqlite3.Connection, table: str, first: str, runs: list[str]
) -> tuple[list[str], list[tuple[object, ...]]]:
    """Return a table's columns and the first stream's rows: by name, experiment or run."""
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    mine = f"SELECT experiment_id FROM experiments WHERE name LIKE 'bhpeft/{first}%'"
    if "run_uuid" in columns:
        where = f"run_uuid IN ({', '.join(repr(run) for run in runs)})"
    elif "experiment_id" in columns:
        where = f"experiment_id IN ({mine})"
    else:
        where = f"name = '{first}'"
    return columns, list(database.execute(f"SELECT * FROM {table} WHERE {where}"))


def _changed(
    columns: list[str], row: tuple[object, ...], renamed: dict[str, str], number: int
) -> list[object]:
    """Return a row's values for another stream; experiments of a stream are fewer than ten."""
    values: list[object] = []
    for column, value in zip(columns, row, strict=True):
        if column == "experiment_id":
            value = int(str(value)) + 10 * number
        elif isinstance(value, str):
            for old, new in renamed.items():
                value = value.replace(old, new)
        values.append(value)
    return values
