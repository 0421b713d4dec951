"""A made-up fleet is what streams at work leave behind, and is read with a few calls."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fleet import make
from bhpeft.registry import Book, Registry, database, read_all
from bhpeft.rounds import overview
from bhpeft.stream import all_streams

NAMES = [f"stream-{number}" for number in range(9)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("fleet")
    make(home, NAMES)
    return home


def facts(book: Book) -> tuple[Any, ...]:
    """What a book says, without the names and ids that tell streams apart."""
    versions = [replace(one, stream="", run_id="") for one in book.versions.values()]
    return versions, [replace(one, stream="") for one in book.moves], book.failures


def test_every_stream_has_the_history_of_the_first_under_its_own_name(home: Path) -> None:
    books = read_all(Registry(f"sqlite:///{home / 'mlflow.db'}"))
    assert sorted(books) == NAMES
    first = facts(books[NAMES[0]])
    assert all(facts(book) == first for book in books.values())
    runs = {one.run_id for book in books.values() for one in book.versions.values()}
    assert len(runs) == 3 * len(NAMES)
    glances = overview(all_streams(home))
    assert {(one.champion, tuple(one.pending), one.failing) for one in glances} == {
        (2, ("day-3",), "1 × FitError")
    }


def test_all_streams_are_read_with_fewer_calls_than_there_are_streams(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bhpeft status` may not ask about each stream by itself."""
    from mlflow import MlflowClient

    made: list[str] = []

    def counted(name: str, call: Any) -> Any:
        @wraps(call)
        def counting(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            return call(*args, **kwargs)

        return counting

    for name in dir(MlflowClient):
        if name.startswith(("search_", "get_")):
            monkeypatch.setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
    assert len(overview(all_streams(home))) == len(NAMES)
    assert made == [], "a SQLite file is read without MLflow"
    monkeypatch.setattr(database, "SCHEMA", "another")
    assert len(overview(all_streams(home))) == len(NAMES)
    assert 0 < len(made) <= 6 < len(NAMES), made
