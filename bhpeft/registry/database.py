"""Read the rows of every stream straight from a SQLite file: a glance needs no MLflow.

Importing MLflow and opening its store take longer than everything else `bhpeft status` does. What
it asks of many streams at once is five plain questions, and they are answered here as MLflow's
client answers them, by what only reads. It is done for a database whose schema is exactly the one
this was written for; every other, and every server, is asked through MLflow. Both ways are held to
the same answers by a test.

Source: mlflow.store.tracking.dbmodels.models and mlflow.store.model_registry.dbmodels.models.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bhpeft.registry.connection import Connection
from bhpeft.registry.records import PREFIX

# MLflow's own name of the schema (`alembic_version`): that of MLflow 3.17.
SCHEMA = "dc11669786a5"


class Page(list[Any]):
    """All that was found, in the one page there is."""

    token = None


class Shelf(Connection):
    """A connection that answers from the file, and only what `read_all` asks.

    Attributes:
        client: stands in for the `MlflowClient`.
    """

    def __init__(self, uri: str, rows: Rows):
        super().__init__(uri)
        self.client: Any = rows

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Let errors pass: whoever meets one asks MLflow, which has words for it."""
        yield


@contextmanager
def shelf(uri: str) -> Iterator[Shelf | None]:
    """Open what reads the SQLite file at an address; None where MLflow has to be asked.

    Raises:
        sqlite3.Error: the file is locked or damaged.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.is_file():
        yield None
        return
    where = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(where, uri=True)) as database:
        known = database.execute("SELECT version_num FROM alembic_version").fetchall()
        if known != [(SCHEMA,)]:
            yield None
            return
        elsewhere = database.execute("SELECT 1 FROM experiments WHERE workspace <> 'default'")
        yield None if elsewhere.fetchone() else Shelf(uri, Rows(database))


class Rows:
    """The rows of an open database, under the names of MLflow's client."""

    def __init__(self, database: sqlite3.Connection):
        self._database = database

    def search_experiments(self, **_: Any) -> Page:
        """Return bhpeft's experiments."""
        found = self._database.execute(
            "SELECT experiment_id, name FROM experiments "
            "WHERE name LIKE 'bhpeft/%' AND lifecycle_stage = 'active'"
        )
        return Page(SimpleNamespace(experiment_id=str(key), name=name) for key, name in found)

    def search_registered_models(self, *_: Any, **__: Any) -> Page:
        """Return the streams with their aliases."""
        aliases = self._grouped("SELECT name, alias, version FROM registered_model_aliases")
        found = self._database.execute(
            "SELECT name, last_updated_time FROM registered_models WHERE name IN "
            "(SELECT name FROM registered_model_tags WHERE key = ? AND value = 'stream')",
            (PREFIX + "kind",),
        )
        return Page(
            SimpleNamespace(
                name=name, last_updated_timestamp=updated, aliases=aliases.get((name,), {})
            )
            for name, updated in found
        )

    def search_model_versions(self, *_: Any, **__: Any) -> Page:
        """Return the versions of all streams."""
        tags = self._grouped("SELECT name, version, key, value FROM model_version_tags")
        found = self._database.execute(
            "SELECT name, version, run_id, creation_time, description FROM model_versions "
            "WHERE current_stage <> 'Deleted_Internal'"
        )
        return Page(
            SimpleNamespace(
                name=name,
                version=str(number),
                run_id=run,
                creation_timestamp=created,
                description=about,
                tags=tags.get((name, number), {}),
            )
            for name, number, run, created, about in found
        )

    def search_runs(self, experiments: Sequence[str], only: str = "", **_: Any) -> Page:
        """Return the runs of experiments, or those alone whose failure is on record."""
        marks = ", ".join("?" * len(experiments))
        which = f"experiment_id IN ({marks}) AND lifecycle_stage = 'active'"
        if only:
            which += (
                " AND run_uuid IN "
                f"(SELECT run_uuid FROM tags WHERE key = '{PREFIX}failure' AND value <> '')"
            )
        ids = [int(one) for one in experiments]
        tags = self._grouped(
            "SELECT run_uuid, key, value FROM tags WHERE run_uuid IN "
            f"(SELECT run_uuid FROM runs WHERE {which})",
            ids,
        )
        found = self._database.execute(
            f"SELECT run_uuid, status, start_time, end_time FROM runs WHERE {which}", ids
        )
        return Page(
            SimpleNamespace(
                info=SimpleNamespace(run_id=run, status=status, start_time=began, end_time=ended),
                data=SimpleNamespace(tags=tags.get((run,), {})),
            )
            for run, status, began, ended in found
        )

    def _grouped(self, query: str, values: Iterable[Any] = ()) -> dict[tuple[Any, ...], Any]:
        """Return {owner: {key: value}} of rows (owner …, key, value)."""
        grouped: dict[tuple[Any, ...], dict[str, Any]] = {}
        for *owner, key, value in self._database.execute(query, tuple(values)):
            grouped.setdefault(tuple(owner), {})[key] = value
        return grouped
