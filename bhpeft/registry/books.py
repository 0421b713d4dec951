"""Several streams' books at once: a few calls to the server, however many streams there are."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from bhpeft.registry import failures
from bhpeft.registry.book import Book
from bhpeft.registry.connection import Connection
from bhpeft.registry.database import shelf
from bhpeft.registry.move_log import MoveLog
from bhpeft.registry.registry import Registry
from bhpeft.registry.versions import Versions

# Database parameters a query may hold: SQLite allows 32,766, older ones 999.
EXPERIMENTS_A_CALL = 500

# Up to so many streams, one after the other is no slower than all at once.
FEW = 3


def glanced(registry: Registry, streams: Collection[str]) -> dict[str, Book]:
    """Return these streams' books by name, and perhaps others', in the cheapest way there is."""
    try:
        with shelf(registry.connection.uri) as here:
            if here is not None:
                return _read(here)
    except sqlite3.Error:
        # Locked, or damaged: MLflow waits longer, and has words for it.
        pass
    if len(streams) <= FEW:
        return {name: registry.book(name) for name in streams}
    return read_all(registry)


def read_all(registry: Registry) -> dict[str, Book]:
    """Return the book of every stream in the registry, by name."""
    return _read(registry.connection)


def _read(connection: Connection) -> dict[str, Book]:
    versions, log = Versions(connection), MoveLog(connection)
    experiments = _experiments(connection)
    rounds = {i: name for i, name in experiments.items() if not name.endswith("/moves")}
    moves = log.of_all(list(_pieces([i for i in experiments if i not in rounds])))
    failed = defaultdict(list)
    for piece in _pieces(list(rounds)):
        for stream, failure in failures.among(connection, piece):
            failed[stream].append(failure)
    known = versions.of_all()
    return {
        # A stream without a version may have failures all the same.
        stream: Book(stream, known.get(stream, {}), moves.get(stream, []), tuple(failed[stream]))
        for stream in [*known, *(failed.keys() - known.keys())]
    }


def _experiments(connection: Connection) -> dict[str, str]:
    """Return the names of bhpeft's experiments by their id."""
    found: list[Any] = []
    token = None
    with connection.translated("list the experiments"):
        while True:
            page = connection.client.search_experiments(
                filter_string="name LIKE 'bhpeft/%'", max_results=1000, page_token=token
            )
            found += page
            token = page.token
            if not token:
                break
    return {experiment.experiment_id: experiment.name for experiment in found}


def _pieces(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), EXPERIMENTS_A_CALL):
        yield ids[start : start + EXPERIMENTS_A_CALL]
