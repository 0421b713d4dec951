"""All that the registry knows of one stream at one moment, as a value to ask questions of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from bhpeft.registry import lineage
from bhpeft.registry.records import QUARANTINED, Failure, Move, Version


@dataclass(frozen=True)
class Book:
    """One stream, read once.

    Attributes:
        stream: the stream.
        versions: every version by its number, oldest first.
        moves: the promotion log, newest last.
        failures: rounds that ended without a decision, newest last.
    """

    stream: str
    versions: Mapping[int, Version]
    moves: Sequence[Move]
    failures: Sequence[Failure] = ()

    @cached_property
    def champion(self) -> Version | None:
        """Return the version in use."""
        number = lineage.champion(self.versions)
        return None if number is None else self.versions[number]

    @cached_property
    def batch_ids(self) -> dict[str, str]:
        """Return the id of every batch that a version was made of, by its fingerprint."""
        return {
            digest: batch_id
            for version in self.versions.values()
            for digest, batch_id in zip(version.batches, version.batch_ids, strict=False)
        }

    @property
    def since(self) -> datetime | None:
        """Return when the champion last moved."""
        return next((move.when for move in reversed(self.moves) if move.moves_champion), None)

    @cached_property
    def chain(self) -> list[Version]:
        """Return the champion and its ancestors, from it to the root."""
        champion = self.champion
        return lineage.chain(self.versions, self.stream, champion.number if champion else None)

    @cached_property
    def learned(self) -> frozenset[str]:
        """Return the fingerprints of the batches that the champion's chain has learned."""
        return frozenset(digest for version in self.chain for digest in version.batches)

    @cached_property
    def refused(self) -> frozenset[str]:
        """Return the fingerprints of batches refused by the gates, a person or a rollback."""
        return lineage.refused(self.versions.values(), self.moves)

    @cached_property
    def quarantined(self) -> dict[str, Failure]:
        """Return why a batch is in quarantine, by its fingerprint; whichever machine found it."""
        broken = {f.digest for f in self.failures if f.kind == QUARANTINED}
        last = {digest: self.failures_in_a_row(digest)[-1:] for digest in broken}
        return {d: row[0] for d, row in last.items() if row and row[0].kind == QUARANTINED}

    @property
    def last_rollback(self) -> Move | None:
        """Return the last move back."""
        return next((move for move in reversed(self.moves) if move.kind == "roll_back"), None)

    @property
    def relearning(self) -> tuple[str, ...]:
        """Return the fingerprints that the last rollback made pending, in the order to learn."""
        move = self.last_rollback
        return move.released_batches if move else ()

    @cached_property
    def held(self) -> list[Version]:
        """Return the candidates that wait for a person and still continue the champion."""
        champion = self.champion
        return lineage.held(self.versions.values(), champion.number if champion else None)

    @property
    def never_logged(self) -> list[Version]:
        """Return candidates whose round died before it had logged that they do not move."""
        champion = self.champion
        number = champion.number if champion else None
        return lineage.never_logged(self.versions, self.moves, number)

    def held_since(self, version: Version) -> datetime:
        """Return since when a candidate waits for a person."""
        move = self.last_word(version, "hold")
        return move.when if move else version.created

    def last_word(self, version: Version, kind: str) -> Move | None:
        """Return the last entry of that kind about a version."""
        about = (m for m in self.moves if m.kind == kind and m.to_version == version.number)
        return max(about, key=lambda move: move.when, default=None)

    def failures_in_a_row(self, digest: str) -> list[Failure]:
        """Return a batch's failures since it was last learned, or released by a person."""
        made = [v.created for v in self.versions.values() if digest in v.batches]
        freed = [m.when for m in self.moves if digest in m.released_batches]
        after = max(made + freed, default=None)
        return [f for f in self.failures if f.digest == digest and (not after or f.when > after)]
