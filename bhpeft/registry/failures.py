"""Rounds that ended without a decision, read back from their MLflow runs.

A failed round's run carries `bhpeft.failure`, the error's name, where the reason lies in the batch
or its training. A server that did not answer or a full disk is nobody's failure: it passes.
"""

from __future__ import annotations

from typing import Any

from bhpeft.registry.connection import Connection
from bhpeft.registry.records import PREFIX, Failure, utc


def of(connection: Connection, stream: str) -> tuple[Failure, ...]:
    """Return the failures of a stream's rounds, oldest first; one call to the server."""
    experiment = connection.known_experiment(f"bhpeft/{stream}")
    if experiment is None:
        return ()
    return tuple(failure for _, failure in among(connection, [experiment]))


def among(connection: Connection, experiments: list[str]) -> list[tuple[str, Failure]]:
    """Return the failures among the runs of some experiments with their streams, oldest first."""
    found: list[Any] = []
    token = None
    with connection.translated("list the failed rounds"):
        while True:
            page = connection.client.search_runs(
                experiments, f"tags.`{PREFIX}failure` LIKE '_%'", max_results=1000, page_token=token
            )
            found += page
            token = page.token
            if not token:
                break
    return sorted((_failure(run) for run in found), key=lambda pair: pair[1].when)


def _failure(run: Any) -> tuple[str, Failure]:
    tags = run.data.tags
    return tags.get(PREFIX + "stream", ""), Failure(
        digest=tags.get(PREFIX + "batch_digest", ""),
        batch_id=tags.get(PREFIX + "batch_id", ""),
        kind=tags[PREFIX + "failure"],
        message=tags.get(PREFIX + "error", ""),
        when=utc(run.info.end_time or run.info.start_time),
    )
