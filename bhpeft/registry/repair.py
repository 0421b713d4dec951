"""Mend, at the start of a round, what a crash or a hand in the UI left behind.

| found | done |
|---|---|
| a log entry still open, champion at its beginning or its end | the move is finished |
| a log entry still open, champion elsewhere | the entry is abandoned |
| gates said promote, crash before the move, parent still champion | promoted now |
| the same, but the champion has moved since | marked stale; its batch is pending again |
| the champion alias is gone | put back where the log says |
| the alias was moved by hand to a version that may be champion | adopted, and logged |
| the alias was moved by hand to a refused version | an error: a person must decide |
| runs of rounds that died | marked killed |
"""

from __future__ import annotations

from bhpeft.errors import RegistryError
from bhpeft.registry import lineage
from bhpeft.registry.connection import Connection
from bhpeft.registry.move_log import MoveLog
from bhpeft.registry.promotion import Lock, Promotion
from bhpeft.registry.records import CHAMPION, DIED, PREFIX, PROMOTED, STALE, Move
from bhpeft.registry.versions import Versions

WHO = "bhpeft repair"


def repair(
    stream: str, *, promotion: Promotion, versions: Versions, log: MoveLog, lock: Lock
) -> list[Move]:
    """Bring aliases, log and decisions of one stream into agreement; return the moves made."""

    def mend() -> list[Move]:
        made = promotion.finish_open_moves(stream)
        made += _agree_with_the_log(stream, promotion, versions, log)
        made += _promote_the_forgotten(stream, promotion, versions, log)
        return made

    return promotion.alone(lock, mend)


def end_dead_runs(stream: str, connection: Connection) -> list[str]:
    """Mark the runs of rounds that died as killed; return their ids.

    Rounds of one stream come one at a time, so at the start of a round no other is alive.
    """
    experiment = connection.known_experiment(f"bhpeft/{stream}")
    if experiment is None:
        return []
    with connection.translated(f"end the dead runs of {stream!r}"):
        client = connection.client
        dead = client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=1000)
        for run in dead:
            client.set_tag(run.info.run_id, PREFIX + "error", "the process died during the round")
            client.set_tag(run.info.run_id, PREFIX + "failure", DIED)
            client.set_terminated(run.info.run_id, "KILLED")
    return [run.info.run_id for run in dead]


def _agree_with_the_log(
    stream: str, promotion: Promotion, versions: Versions, log: MoveLog
) -> list[Move]:
    last = lineage.last_move(log.history(stream))
    expected = last.to_version if last else None
    found = versions.number(stream, CHAMPION)
    if found == expected:
        return []
    known = versions.all(stream)
    if found is None:
        if expected not in known:
            raise RegistryError(
                f"The champion of {stream!r}, v{expected}, was deleted",
                expected="a version that is still in the registry",
                remedy=f"Choose another: `bhpeft rollback {stream} --to … --reason …`.",
            )
        return [promotion.put_right(known[expected], None, "the champion alias was gone", by=WHO)]
    version = lineage.find(known, stream, found)
    if version.decision != PROMOTED:
        raise RegistryError(
            f"Somebody made {version} the champion by hand",
            found=f"decision {version.decision!r}",
            expected="no champion" if expected is None else f"v{expected}",
            remedy="A refused candidate never becomes a prior. Put the alias back: "
            f"`bhpeft rollback {stream} --to {expected} --reason …`.",
        )
    return [promotion.put_right(version, expected, "the alias was moved by hand; adopted", by=WHO)]


def _promote_the_forgotten(
    stream: str, promotion: Promotion, versions: Versions, log: MoveLog
) -> list[Move]:
    moves = log.history(stream)
    waiting = lineage.never_moved(versions.all(stream).values(), moves)
    if not waiting:
        return []
    champion = versions.number(stream, CHAMPION)
    last = max((move.when for move in moves if move.moves_champion), default=None)
    *older, newest = waiting
    if newest.parent != champion or (last is not None and newest.created <= last):
        older, ready = waiting, []
    else:
        ready = [newest]
    for version in older:
        versions.tag(version, decision=STALE)
    why = "the gates promoted it and the process died before the move"
    return [promotion.put_right(v, champion, why, by=WHO, kind="promote") for v in ready]
