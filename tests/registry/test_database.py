"""A SQLite file read straight and through MLflow says the same of every stream."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bhpeft.registry import Registry, glanced, read_all
from bhpeft.registry.database import SCHEMA, shelf
from tests.registry.conftest import Learn


def path_of(registry: Registry) -> Path:
    return Path(registry.connection.uri.removeprefix("sqlite:///"))


@pytest.fixture
def lived(registry: Registry, stream: str, learn: Learn) -> str:
    """A stream with versions, aliases, moves, a failure, and what was deleted."""
    learn("b1", None)
    learn("b2", 1, "refused")
    registry.refuse(stream, 2, by="round", reason="worse")
    learn("b3", 1, "held")
    registry.hold(stream, 3, by="round", reason="drift")
    learn("b4", 1)
    registry.roll_back(stream, 1, by="anna", reason="worse on tweets", learned_since="pending")
    with pytest.raises(RuntimeError), registry.round_run(stream, "b5", digest="sha", parent=1):
        raise RuntimeError("shapes")
    client = registry.connection.client
    client.delete_model_version(stream, "2")
    client.create_registered_model(f"{stream}, somebody else's")
    with registry.round_run(stream, "b6", digest="sha-b6", parent=1) as run:
        pass
    client.delete_run(run.run_id)
    return stream


def test_both_ways_say_the_same_of_every_stream(registry: Registry, lived: str) -> None:
    """Every version with its tags and aliases, every move, every failure."""
    with shelf(registry.connection.uri) as here:
        assert here is not None, f"MLflow's schema is no longer {SCHEMA}: see the module"
    found = glanced(registry, [])
    assert found == read_all(registry)
    assert list(found[lived].versions) == [1, 3, 4]
    assert [move.kind for move in found[lived].moves][-1] == "roll_back"
    assert len(found[lived].failures) == 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE alembic_version SET version_num = 'another'",
        "UPDATE experiments SET workspace = 'theirs'",
        "DROP TABLE alembic_version",
    ],
)
def test_any_other_database_is_mlflows_to_read(
    registry: Registry, lived: str, tmp_path: Path, change: str
) -> None:
    copy = tmp_path / "mlflow.db"
    with (
        closing(sqlite3.connect(path_of(registry))) as source,
        closing(sqlite3.connect(copy)) as target,
        target,
    ):
        source.backup(target)
        target.execute(change)
    if "DROP" in change:
        with pytest.raises(sqlite3.Error), shelf(f"sqlite:///{copy}"):
            pass
        return
    with shelf(f"sqlite:///{copy}") as here:
        assert here is None


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "sqlite:////nowhere/mlflow.db", ""])
def test_servers_and_missing_files_are_mlflows_to_ask(uri: str) -> None:
    with shelf(uri) as here:
        assert here is None


def test_reading_changes_nothing_and_imports_no_mlflow(registry: Registry, lived: str) -> None:
    uri = registry.connection.uri
    program = (
        "import sys; from bhpeft.registry import Registry, glanced; "
        f"books = glanced(Registry({uri!r}), []); "
        f"assert {lived!r} in books; assert 'mlflow' not in sys.modules"
    )
    before = path_of(registry).read_bytes()
    subprocess.run([sys.executable, "-c", program], check=True)
    assert path_of(registry).read_bytes() == before
