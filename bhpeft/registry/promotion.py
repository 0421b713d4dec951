"""Moving the champion: promote, roll back, and mend what a crash left half moved.

MLflow's aliases have no compare-and-swap and two aliases are two calls, so every move here is
made under a lock of the caller's, checks the champion first and reads it back last:

    open the log entry → previous := champion → champion := version → read back → close the entry

Each step is safe to repeat, so a move that stopped anywhere is finished by doing it again.

The open entry is also the fence, since a lock whose lease ran out while its holder was suspended
protects nothing. Whoever makes a move writes its intent first and looks around after: at the other
open entries, at the champion, at its own entry. Of two that cross, one at least sees the other and
lets go. Whoever takes the lock later finishes or abandons the entries it finds open, so the
suspended one finds its own settled; if it had moved the champion in the instant between, it puts
the champion back to where the log says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

from bhpeft.errors import NotAllowed, RegistryError, StaleParent
from bhpeft.registry import lineage
from bhpeft.registry.move_checks import (
    Overtaken,
    check_target,
    crossed,
    is_return,
    not_promotable,
    stale,
)
from bhpeft.registry.move_log import Logged, MoveLog
from bhpeft.registry.records import (
    CANDIDATE,
    CHAMPION,
    HELD,
    PREVIOUS,
    PROMOTED,
    REFUSED,
    STALE,
    SUPERSEDED,
    Move,
    Version,
    unique,
)
from bhpeft.registry.versions import Versions

logger = logging.getLogger(__name__)

Lock = Callable[[], AbstractContextManager[object]]

# What is said about a candidate that does not become champion, and the decision it then carries.
SETTLED = {"refuse": REFUSED, "hold": HELD, "supersede": SUPERSEDED}


class Promotion:
    """The moves of all streams on one connection."""

    def __init__(self, versions: Versions, log: MoveLog):
        self._versions = versions
        self._log = log

    def promote(
        self,
        stream: str,
        number: int,
        *,
        expected_parent: int | None,
        by: str,
        reason: str,
        lock: Lock,
        despite_refusal: bool,
    ) -> Move:
        """Make a version the champion; see `Registry.promote`."""

        def move() -> list[Move]:
            self.finish_open_moves(stream)
            version = self._found(stream, number)
            champion = self._versions.number(stream, CHAMPION)
            if champion == number:
                return [self._last_move_to(stream, number)]
            if champion != expected_parent:
                self._versions.tag(version, decision=STALE)
                raise stale(version, champion, expected_parent)
            if version.decision in (REFUSED, SUPERSEDED) and not despite_refusal:
                raise not_promotable(version)
            if version.decision != PROMOTED:
                # A person's act: whoever may not write on the version or its run is told before
                # anything has moved.
                self._versions.tag(version, decided_by=by)
            made = self._new(stream, "promote", by, champion, number, reason)
            return [self._make(made, version)]

        return self.alone(lock, move)[-1]

    def roll_back(
        self,
        stream: str,
        to: int,
        *,
        by: str,
        reason: str,
        refuse: Collection[str] | Literal["all"],
        lock: Lock,
    ) -> Move:
        """Make an earlier champion the champion again; see `Registry.roll_back`."""

        def move() -> list[Move]:
            self.finish_open_moves(stream)
            versions = self._versions.all(stream)
            version = lineage.find(versions, stream, to)
            champion = lineage.champion(versions)
            moves = self._log.history(stream)
            if champion == to and moves and is_return(moves[-1], to):
                return [moves[-1]]
            check_target(version, champion, versions, moves)
            kept = lineage.learned(versions, stream, to)
            known = champion if champion in versions else None
            left = [
                digest
                for version_left in reversed(lineage.chain(versions, stream, known))
                for digest in version_left.batches
                if digest not in kept
            ]
            back = lineage.refused(versions.values(), moves) & kept
            gone = {digest for digest in left if refuse == "all" or digest in refuse}
            made = self._new(
                stream,
                "roll_back",
                by,
                champion,
                to,
                reason,
                refused=sorted(gone),
                # In the order they were learned in, which is the order to learn them in again.
                released=[*sorted(back), *(digest for digest in left if digest not in gone)],
            )
            return [self._make(made, version)]

        return self.alone(lock, move)[-1]

    def alone(self, lock: Lock, moves: Callable[[], list[Move]]) -> list[Move]:
        """Make moves under the lock; what another process settled meanwhile is as the log says."""
        try:
            with lock():
                return moves()
        except Overtaken as late:
            # The lock was lost, so it is taken anew, outside the scope of the lost one.
            with lock():
                self._agree(late)
            return [late.move]

    def settle(self, stream: str, number: int, kind: str, *, by: str, reason: str) -> Move:
        """Log that a candidate was refused, held or superseded; its decision tag follows.

        The log comes first, as for a move: an entry left open says what is to be finished.
        """
        version, champion = self._found(stream, number), self._versions.number(stream, CHAMPION)
        if champion == number:
            raise RegistryError(
                f"{version} is the champion and cannot be put aside",
                remedy=f"Roll back first: `bhpeft rollback {stream} --to … --reason …`.",
            )
        decision = SETTLED[kind]
        earlier = self._said(stream, number)
        if version.decision == decision and earlier is not None and earlier.kind == kind:
            return earlier
        batches = frozenset(version.batches) if kind == "refuse" else frozenset()
        move = self._new(stream, kind, by, champion, number, reason, refused=sorted(batches))
        run_id = self._log.open(move)
        self._decide(version, kind)
        self._log.close(run_id)
        return move

    def _decide(self, version: Version, kind: str) -> None:
        if version.decision != SETTLED[kind]:
            self._versions.tag(version, decision=SETTLED[kind])

    def _said(self, stream: str, number: int) -> Move | None:
        """Return the last log entry about a version, so that saying it again adds nothing."""
        about = [move for move in self._log.history(stream) if move.to_version == number]
        return about[-1] if about else None

    def release(
        self,
        stream: str,
        batches: frozenset[str],
        *,
        by: str,
        reason: str,
        after: datetime | None = None,
    ) -> Move:
        """Make refused batches pending again; the entry comes after `after`, whatever the clock."""
        champion = self._versions.number(stream, CHAMPION)
        move = self._new(stream, "release", by, champion, None, reason, released=sorted(batches))
        if after is not None and move.when <= after:
            move = replace(move, when=after + timedelta(milliseconds=1))
        self._log.close(self._log.open(move))
        return move

    def note(self, stream: str, kind: str, *, by: str, reason: str) -> Move:
        """Log something that moves no alias and no batch."""
        champion = self._versions.number(stream, CHAMPION)
        move = self._new(stream, kind, by, champion, None, reason)
        self._log.close(self._log.open(move))
        return move

    def put_right(
        self, version: Version, champion: int | None, why: str, *, by: str, kind: str = "repair"
    ) -> Move:
        """Make, or confirm, a version as champion and log it. Call it under the lock."""
        move = self._new(version.stream, kind, by, champion, version.number, why)
        return self._make(move, version)

    def finish_open_moves(self, stream: str) -> list[Move]:
        """Finish, or give up, each move that a crash left open. Call it under the lock."""
        done = [self._finish(entry) for entry in self._log.unfinished(stream)]
        return [move for move in done if move is not None]

    def apply(self, move: Move, version: Version) -> None:
        """Move the aliases and read them back; safe to repeat.

        Raises:
            StaleParent: somebody else moved the champion at the same moment, without the lock.
        """
        stream, number = version.stream, version.number
        if move.from_version is not None and move.from_version != number:
            self._versions.point(stream, PREVIOUS, move.from_version)
        self._versions.point(stream, CHAMPION, number)
        if version.decision != PROMOTED:
            self._versions.tag(version, decision=PROMOTED, decision_before=version.decision)
        aliases = self._versions.aliases(stream) or {}
        if aliases.get(CHAMPION) != number:
            raise stale(version, aliases.get(CHAMPION), number)
        if aliases.get(CANDIDATE) == number:
            self._forget_candidate(stream)

    def _forget_candidate(self, stream: str) -> None:
        """Take the alias away; an approver may lack MLflow's right to, and the next round does."""
        try:
            self._versions.point(stream, CANDIDATE, None)
        except NotAllowed as problem:
            logger.info("%s@candidate stays until the next round: %s", stream, problem)

    def _found(self, stream: str, number: int) -> Version:
        found = self._versions.one(stream, number)
        return found or lineage.find(self._versions.all(stream), stream, number)

    def _make(self, move: Move, version: Version) -> Move:
        run_id = self._log.open(move)
        try:
            self._look_around(move, version, run_id)
            if self._log.state(run_id) == "open":
                self.apply(move, version)
        except (StaleParent, NotAllowed) as problem:
            # Left open it would be finished by the next round, with that one's rights.
            # One that another process has finished meanwhile did happen, and stays in the log.
            if self._log.state(run_id) == "open":
                self._log.abandon(run_id, problem.message)
                raise
        if self._log.state(run_id) != "open":
            raise Overtaken(move, version, run_id)
        self._log.close(run_id)
        return move

    def _look_around(self, move: Move, version: Version, run_id: str) -> None:
        """Let go if somebody else is making a move, or has made one since this one was decided.

        Raises:
            StaleParent: so it is.
        """
        others = [e.move for e in self._log.unfinished(move.stream) if e.run_id != run_id]
        if moving := [other for other in others if other.moves_champion]:
            raise crossed(move, moving)
        champion = self._versions.number(move.stream, CHAMPION)
        if champion not in (move.from_version, move.to_version):
            raise stale(version, champion, move.from_version)

    def _agree(self, late: Overtaken) -> None:
        """Put the champion where the log says, after a process that had lost its lock moved it.

        Raises:
            StaleParent: its move was abandoned, since the champion had moved on.
        """
        self.finish_open_moves(late.move.stream)
        last = lineage.last_move(self._log.history(late.move.stream))
        at = last.to_version if last else None
        if last is not None and at != self._versions.number(late.move.stream, CHAMPION):
            self.apply(last, self._found(late.move.stream, at or 0))
        if self._log.state(late.run_id) != "done":
            raise stale(late.version, at, late.move.from_version)

    def _finish(self, entry: Logged) -> Move | None:
        move = entry.move
        champion = self._versions.number(move.stream, CHAMPION)
        version = self._versions.one(move.stream, move.to_version or 0)
        if not move.moves_champion:
            if version is not None and move.kind in SETTLED and champion != version.number:
                self._decide(version, move.kind)
            self._log.close(entry.run_id)
            return move
        if version is None or champion not in (move.from_version, move.to_version):
            self._log.abandon(entry.run_id, f"cut in half, and the champion is v{champion} now")
            return None
        self.apply(move, version)
        self._log.close(entry.run_id)
        return move

    def _new(
        self,
        stream: str,
        kind: str,
        by: str,
        from_version: int | None,
        to_version: int | None,
        why: str,
        refused: Sequence[str] = (),
        released: Sequence[str] = (),
    ) -> Move:
        if not why.strip():
            raise RegistryError(
                f"A {kind.replace('_', ' ')} needs a reason",
                remedy="Say why in one line; the promotion log keeps it.",
            )
        when = self._log.next_time(stream)
        gone, back = unique(refused), unique(released)
        one = " ".join(why.split())
        return Move(kind, stream, when, by, from_version, to_version, one, gone, back)

    def _last_move_to(self, stream: str, number: int) -> Move:
        found = [m for m in self._log.history(stream) if m.to_version == number]
        moving = [m for m in found if m.moves_champion]
        if moving:
            return moving[-1]
        version = self._found(stream, number)
        return self.put_right(version, None, "champion without a log entry", by="bhpeft")
