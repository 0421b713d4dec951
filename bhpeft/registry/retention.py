"""What of a stream's past may be thrown away, and throwing it away.

A version has an entry (its place in the chain, which says what was learned) and files (its
posterior, and its run's figures and reports).

| version | files | entry |
|---|---|---|
| champion, previous, held, and the newest others | stay | stays |
| an ancestor of one of them | removed | stays: what the chain has learned hangs on it |
| any other | removed | removed |

A version without files is marked before the first of them goes: it is no longer offered to roll
back to, so that no rollback that is offered can fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

from bhpeft.registry import lineage
from bhpeft.registry.book import Book
from bhpeft.registry.connection import Connection
from bhpeft.registry.move_log import MoveLog
from bhpeft.registry.promotion import Lock, Promotion
from bhpeft.registry.records import CHAMPION, PREVIOUS, PROMOTED, REFUSED, Version
from bhpeft.registry.registry import Registry
from bhpeft.registry.versions import Versions


@dataclass(frozen=True)
class Waste:
    """What `bhpeft gc` would remove from one stream.

    Attributes:
        stripped: ancestors whose files go and whose entry stays.
        deleted: versions that go altogether.
    """

    stripped: tuple[Version, ...]
    deleted: tuple[Version, ...]

    def __bool__(self) -> bool:
        return bool(self.stripped or self.deleted)

    def __str__(self) -> str:
        parts = {"files of": self.stripped, "all of": self.deleted}
        said = [
            f"{what} {', '.join(f'v{v.number}' for v in found)}"
            for what, found in parts.items()
            if found
        ]
        return "; ".join(said) or "nothing"


def waste(book: Book, keep: int) -> Waste:
    """Return what may go when the newest `keep` versions stay beside those in use.

    Args:
        book: the stream.
        keep: how many versions beside the champion, the previous one and the held ones keep
            their files, and so stay offered to roll back to.
    """
    versions = book.versions
    held = {version.number for version in book.held}
    waiting = {v.number for v in lineage.never_moved(versions.values(), book.moves)}
    used = {n for n, v in versions.items() if {CHAMPION, PREVIOUS} & set(v.aliases)}
    whole = used | held | waiting
    others = [n for n in sorted(versions, reverse=True) if n not in whole and versions[n].has_files]
    whole |= set(others[:keep])
    needed = {link.number for n in whole for link in lineage.chain(versions, book.stream, n)}
    rest = [version for number, version in versions.items() if number not in whole]
    return Waste(
        stripped=tuple(v for v in rest if v.number in needed and v.has_files),
        deleted=tuple(v for v in rest if v.number not in needed and _forgettable(v, book)),
    )


def remove_waste(
    registry: Registry, stream: str, keep: int, *, by: str, lock: Lock = nullcontext
) -> Waste:
    """Remove versions and files that nothing in use and no offered rollback needs; log it.

    Args:
        registry: where.
        stream: the stream.
        keep: how many versions stay whole beside the champion, the previous and the held ones.
        by: who asked.
        lock: makes the context for alias moves, so that nobody rolls back to what is about to go.
    """
    connection = registry.connection
    versions = Versions(connection)
    with lock():
        found = waste(registry.book(stream), keep)
        if found:
            log = Promotion(versions, MoveLog(connection))
            log.note(stream, "gc", by=by, reason=f"kept {keep}; removed {found}")
            remove(connection, versions, found)
    return found


def remove(connection: Connection, versions: Versions, found: Waste) -> None:
    """Throw away; safe to repeat after a crash, since files go before the entry that names them."""
    for version in [*found.stripped, *found.deleted]:
        versions.tag(version, files="removed")
        _remove_files(connection, version)
    for version in found.deleted:
        with connection.translated(f"delete {version}"):
            connection.client.delete_model_version(version.stream, str(version.number))


def _forgettable(version: Version, book: Book) -> bool:
    """Say whether the log alone still tells that its batches are refused."""
    if version.decision == PROMOTED:
        return version.number in lineage.champions(book.moves)
    others: Iterable[Version] = [v for v in book.versions.values() if v != version]
    still = lineage.refused(others, book.moves)
    return version.decision != REFUSED or set(version.batches) & book.refused <= still


def _remove_files(connection: Connection, version: Version) -> None:
    from mlflow.exceptions import MlflowException

    client = connection.client
    with connection.translated(f"remove the files of {version}"):
        model_id = client.get_model_version(version.stream, str(version.number)).model_id
        if version.run_id:
            _empty(client.get_run(version.run_id).info.artifact_uri)
        if not model_id:
            return
        try:
            _empty(client.get_logged_model(model_id).artifact_location)
            client.delete_logged_model(model_id)
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_DOES_NOT_EXIST":  # an earlier attempt did it
                raise


def _empty(uri: str) -> None:
    """Delete what is in a folder of MLflow's store."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(uri)
    for entry in repository.list_artifacts() or []:
        repository.delete_artifacts(entry.path)
