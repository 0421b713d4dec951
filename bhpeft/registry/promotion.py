"""Moving the champion: promote, roll back, and mend what a crash left half moved.

MLflow's aliases have no compare-and-swap and two aliases are two calls, so every move here is
made under a lock of the caller's, checks the champion first and reads it back last:

    open the log entry → previous := champion → champion := version → read back → close the entry

Each step is safe to repeat, so a move that stopped anywhere is finished by doing it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Literal

from bhpeft.errors import RegistryError, StaleParent
from bhpeft.registry import lineage
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
        with lock():
            self.finish_open_moves(stream)
            version = self._found(stream, number)
            champion = self._versions.number(stream, CHAMPION)
            if champion == number:
                return self._last_move_to(stream, number)
            if champion != expected_parent:
                self._versions.tag(version, decision=STALE)
                raise _stale(version, champion, expected_parent)
            if version.decision in (REFUSED, SUPERSEDED) and not despite_refusal:
                raise _not_promotable(version)
            move = self._new(stream, "promote", by, champion, number, reason)
            return self._make(move, version)

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
        with lock():
            self.finish_open_moves(stream)
            versions = self._versions.all(stream)
            version = lineage.find(versions, stream, to)
            champion = lineage.champion(versions)
            moves = self._log.history(stream)
            if (
                champion == to
                and moves
                and (moves[-1].kind, moves[-1].to_version)
                == (
                    "roll_back",
                    to,
                )
            ):
                return moves[-1]
            _check_target(version, champion, versions, moves)
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
            move = self._new(
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
            return self._make(move, version)

    def settle(self, stream: str, number: int, kind: str, *, by: str, reason: str) -> Move:
        """Log that a candidate was refused, held or superseded; its decision tag follows."""
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
        if version.decision != decision:
            self._versions.tag(version, decision=decision)
        batches = frozenset(version.batches) if kind == "refuse" else frozenset()
        move = self._new(stream, kind, by, champion, number, reason, refused=sorted(batches))
        self._log.close(self._log.open(move))
        return move

    def _said(self, stream: str, number: int) -> Move | None:
        """Return the last log entry about a version, so that saying it again adds nothing."""
        about = [move for move in self._log.history(stream) if move.to_version == number]
        return about[-1] if about else None

    def release(self, stream: str, batches: frozenset[str], *, by: str, reason: str) -> Move:
        """Make refused batches pending again."""
        champion = self._versions.number(stream, CHAMPION)
        move = self._new(stream, "release", by, champion, None, reason, released=sorted(batches))
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
            raise _stale(version, aliases.get(CHAMPION), number)
        if aliases.get(CANDIDATE) == number:
            self._versions.point(stream, CANDIDATE, None)

    def _found(self, stream: str, number: int) -> Version:
        found = self._versions.one(stream, number)
        return found or lineage.find(self._versions.all(stream), stream, number)

    def _make(self, move: Move, version: Version) -> Move:
        run_id = self._log.open(move)
        try:
            self.apply(move, version)
        except StaleParent as problem:
            self._log.abandon(run_id, problem.message)
            raise
        self._log.close(run_id)
        return move

    def _finish(self, entry: Logged) -> Move | None:
        move = entry.move
        if not move.moves_champion:
            self._log.close(entry.run_id)
            return move
        champion = self._versions.number(move.stream, CHAMPION)
        version = self._versions.one(move.stream, move.to_version or 0)
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


def _stale(version: Version, champion: int | None, expected: int | None) -> StaleParent:
    return StaleParent(
        f"The champion of {version.stream!r} moved while {version} was being made",
        found="no champion" if champion is None else f"champion v{champion}",
        expected="no champion" if expected is None else f"v{expected}",
        remedy="Its batch is pending again; the next round starts from the new champion.",
    )


def _not_promotable(version: Version) -> RegistryError:
    return RegistryError(
        f"{version} was {version.decision} and cannot be promoted",
        found=f"decision {version.decision!r}",
        expected="'promoted' or 'held'",
        remedy="A refused candidate never becomes a prior. To overrule the gates, promote it "
        "explicitly with despite_refusal and a reason.",
    )


def _check_target(
    version: Version, champion: int | None, versions: dict[int, Version], moves: list[Move]
) -> None:
    """Accept only versions that have been champion.

    Raises:
        RegistryError: it is the champion already, or never was champion.
    """
    if champion == version.number:
        raise RegistryError(
            f"{version} is the champion already",
            expected="another version that has been champion",
            remedy=f"See them with `bhpeft history {version.stream}`.",
        )
    been = lineage.champions(moves)
    if champion in versions:
        been |= {v.number for v in lineage.chain(versions, version.stream, champion)}
    known = sorted(n for n in been & set(versions) - {champion} if versions[n].has_files)
    if version.number not in known:
        raise RegistryError(
            f"{version} has never been champion"
            if version.has_files
            else f"The files of {version} were removed",
            found=f"decision {version.decision!r}",
            expected=f"one of {', '.join(f'v{n}' for n in known) or 'none yet'}",
            remedy=f"Choose a version from `bhpeft history {version.stream}`.",
        )
