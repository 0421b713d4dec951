"""Mend what a crash or a hand in the UI left, before a round or in a watch that has none to run.

| found | done |
|---|---|
| a log entry still open, champion at its beginning or its end | the move is finished |
| a log entry still open, champion elsewhere | the entry is abandoned |
| gates said promote, crash before the move, parent still champion | promoted now |
| the same, but the champion has moved since | marked stale; its batch is pending again |
| the champion alias is gone | put back where the log says |
| the alias was moved by hand to a version that may be champion | adopted, and logged |
| the alias was moved by hand to a refused version | an error: a person must decide |
| gates said refuse or hold, crash before the log | logged now, in the name of who ran the round |
| runs of rounds that died | marked killed |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bhpeft.errors import RegistryError
from bhpeft.registry import lineage
from bhpeft.registry.connection import Connection
from bhpeft.registry.move_log import MoveLog
from bhpeft.registry.promotion import Lock, Promotion
from bhpeft.registry.records import CHAMPION, DIED, HELD, PREFIX, PROMOTED, STALE, Move, Version
from bhpeft.registry.versions import Versions

WHO = "bhpeft repair"


def repair(
    stream: str, *, promotion: Promotion, versions: Versions, log: MoveLog, lock: Lock
) -> list[Move]:
    """Bring aliases, log and decisions of one stream into agreement; return the moves made."""

    def mend() -> list[Move]:
        made = promotion.finish_open_moves(stream)
        made += _agree_with_the_log(stream, promotion, versions, log)
        made += _conclude_the_forgotten(stream, promotion, versions, log)
        return made

    return promotion.alone(lock, mend)


def running(stream: str, connection: Connection) -> bool:
    """Say whether a round or a move goes on at this moment, or died; one call to the server."""
    named = (f"bhpeft/{stream}", f"bhpeft/{stream}/moves")
    experiments = [one for one in map(connection.known_experiment, named) if one is not None]
    if not experiments:
        return False
    with connection.translated(f"look for what goes on in {stream!r}"):
        found = connection.client.search_runs(
            experiments, "attributes.status = 'RUNNING'", max_results=1
        )
    return bool(found)


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


def _conclude_the_forgotten(
    stream: str, promotion: Promotion, versions: Versions, log: MoveLog
) -> list[Move]:
    """Do for versions whose round died right after registering them what it would have done."""
    moves, known = log.history(stream), versions.all(stream)
    champion = lineage.champion(known)
    ready, late = _forgotten_promotions(known.values(), moves, champion)
    for version in late:
        versions.tag(version, decision=STALE)
    why = "the gates promoted it and the process died before the move"
    made = [promotion.put_right(v, champion, why, by=WHO, kind="promote") for v in ready]
    if made:
        champion = ready[-1].number
    return made + [
        promotion.settle(
            stream,
            version.number,
            "hold" if version.decision == HELD else "refuse",
            # Whoever ran the round may be the one who must not approve what it made.
            by=version.tags.get(PREFIX + "by", WHO),
            reason=version.tags.get(PREFIX + "reason") or "the process died before it said why",
        )
        for version in lineage.never_logged(known, moves, champion)
    ]


def _forgotten_promotions(
    versions: Iterable[Version], moves: Sequence[Move], champion: int | None
) -> tuple[list[Version], list[Version]]:
    """Return the version still to be promoted, if any, and those it is too late for."""
    waiting = lineage.never_moved(versions, moves)
    if not waiting:
        return [], []
    last = max((move.when for move in moves if move.moves_champion), default=None)
    *older, newest = waiting
    if newest.parent != champion or (last is not None and newest.created <= last):
        return [], waiting
    return [newest], older
