"""The registry as the rest of bhpeft sees it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from bhpeft.errors import RegistryError, UnknownVersion
from bhpeft.registry import (
    failures,
    lineage,
    package,
    pages,
    registration,
    repair,
    round_run,
)
from bhpeft.registry.book import Book
from bhpeft.registry.connection import Connection, account, pyfunc
from bhpeft.registry.move_log import MoveLog
from bhpeft.registry.promotion import Lock, Promotion
from bhpeft.registry.records import (
    CANDIDATE,
    CHAMPION,
    PREVIOUS,
    STREAM,
    Entry,
    Move,
    Version,
)
from bhpeft.registry.round_run import RoundRun
from bhpeft.registry.versions import Versions


class Registry:
    """Versions, aliases, runs and the promotion log of every stream on one MLflow server.

    Nothing is asked of the server before the first call. A stream's registered model has the
    stream's name, so `models:/<stream>@champion` is what is in use.

    Attributes:
        connection: the server or database at `tracking_uri`; MLflow's own default if None.
    """

    def __init__(self, tracking_uri: str | None = None):
        self.connection = Connection(tracking_uri)
        self._versions = Versions(self.connection)
        self._log = MoveLog(self.connection)
        self._promotion = Promotion(self._versions, self._log)

    @property
    def account(self) -> str:
        """Return who this process is logged in as at the server; empty without a log-in."""
        return account()

    # What there is

    def streams(self) -> list[Entry]:
        """Return every stream with its aliases, in one call."""
        return self._versions.streams()

    def champion(self, stream: str) -> Version | None:
        """Return the version in use, or None before the first promotion."""
        return self._at(stream, CHAMPION)

    def previous(self, stream: str) -> Version | None:
        """Return the champion before the last move."""
        return self._at(stream, PREVIOUS)

    def candidate(self, stream: str) -> Version | None:
        """Return the version learned last, if it was not promoted."""
        found = self._at(stream, CANDIDATE)
        return None if found is not None and CHAMPION in found.aliases else found

    def in_group(self, group: str) -> list[Version]:
        """Return the champions that were learned in a group, by their streams' names."""
        return self._versions.champions_of(group)

    def version(self, stream: str, number: int) -> Version:
        """Return one version.

        Raises:
            UnknownVersion: there is none of that number; lists the known ones.
        """
        found = self._versions.one(stream, number)
        return found or lineage.find(self._versions.all(stream), stream, number)

    def versions(self, stream: str) -> list[Version]:
        """Return all versions, oldest first."""
        return list(self._versions.all(stream).values())

    def lineage(self, stream: str, number: int | None) -> list[Version]:
        """Return the version and its ancestors, from `number` to the root; [] for None."""
        return lineage.chain(self._versions.all(stream), stream, number)

    def learned(self, stream: str, number: int | None) -> frozenset[str]:
        """Return the fingerprints of the batches that the version's chain has learned."""
        return lineage.learned(self._versions.all(stream), stream, number)

    def refused(self, stream: str) -> frozenset[str]:
        """Return the fingerprints of batches refused by the gates, a person or a rollback."""
        return lineage.refused(self._versions.all(stream).values(), self._log.history(stream))

    def held(self, stream: str) -> list[Version]:
        """Return the candidates that wait for a person and whose parent is still champion."""
        versions = self._versions.all(stream)
        return lineage.held(versions.values(), lineage.champion(versions))

    def history(self, stream: str) -> list[Move]:
        """Return the promotion log, newest last."""
        return self._log.history(stream)

    def book(self, stream: str) -> Book:
        """Return all that is known of a stream, as it is now, in four calls."""
        versions, moves = self._versions.all(stream), self._log.history(stream)
        return Book(stream, versions, moves, failures.of(self.connection, stream))

    def attempt(self, stream: str, parent: int | None, digest: str) -> Version | None:
        """Return what an earlier attempt of the same round registered, to be taken up again."""
        versions = self._versions.all(stream)
        return lineage.attempt(versions, self._log.history(stream), parent, digest)

    # One round

    def round_run(
        self,
        stream: str,
        batch_id: str,
        *,
        digest: str,
        parent: int | None,
        tags: Mapping[str, object] | None = None,
        by: str = round_run.WHO,
    ) -> AbstractContextManager[RoundRun]:
        """Open the round's MLflow run; an exception inside ends it FAILED, tagged `bhpeft.error`.

        See `round_run.opened`.
        """
        return round_run.opened(
            self.connection,
            stream,
            batch_id,
            digest=digest,
            parent=parent,
            tags=tags or {},
            by=by,
        )

    def register(
        self,
        run: RoundRun,
        state_folder: Path,
        *,
        decision: str,
        description: str = "",
        tags: Mapping[str, object] | None = None,
        metadata: Mapping[str, Any] | None = None,
        kind: str = STREAM,
    ) -> Version:
        """Store a state folder as the stream's next version and point `candidate` at it.

        The champion does not move: `promote` does that, if the decision is "promoted".

        Args:
            run: the round's run; the stream, the parent and the batch are its own.
            state_folder: safetensors and JSON files.
            decision: "promoted", "refused" or "held".
            description: Markdown; the list of versions shows its first line, as plain text.
            tags: more facts about the version (`kl_weight`, `forgetting`, `base_model`, …).
            metadata: facts to travel inside the model's own file.
            kind: what is stored: a stream's posterior, or a group's "population".

        Raises:
            StateError: the folder holds other files.
            RegistryError: it could not be stored; no alias was moved.
        """
        number = registration.register(
            self.connection,
            self._versions,
            run,
            state_folder,
            decision,
            description,
            tags or {},
            metadata or {},
            kind,
        )
        return self.version(run.stream, number)

    def quarantined(
        self,
        stream: str,
        batch_id: str,
        *,
        digest: str,
        error: str,
        reasons: Iterable[Any] = (),
        rows: Path | None = None,
    ) -> RoundRun:
        """Record a batch that cannot be learned as a short run, and return it.

        From then on the stream's `Book` says so to every machine, until the batch is released.

        Args:
            stream: the stream.
            batch_id: the batch.
            digest: its fingerprint.
            error: what is wrong with it.
            reasons: the broken rules.
            rows: a file of the rows that break them.
        """
        return round_run.quarantined(
            self.connection, stream, batch_id, digest, error, reasons, rows
        )

    # Moves

    def promote(
        self,
        stream: str,
        number: int,
        *,
        expected_parent: int | None,
        by: str,
        reason: str,
        lock: Lock = nullcontext,
        despite_refusal: bool = False,
    ) -> Move:
        """Make a version the champion if the champion is still the one it continues.

        Running it again after it succeeded changes nothing and returns the same move.

        Args:
            stream: the stream.
            number: the version.
            expected_parent: the champion when the round began.
            by: who decided.
            reason: why, in one line.
            lock: makes the context under which only one process moves this stream's aliases.
            despite_refusal: overrule the gates; the log keeps who did and why.

        Raises:
            StaleParent: the champion is another one by now; the version is marked stale.
            RegistryError: the version was refused.
        """
        return self._promotion.promote(
            stream,
            number,
            expected_parent=expected_parent,
            by=by,
            reason=reason,
            lock=lock,
            despite_refusal=despite_refusal,
        )

    def roll_back(
        self,
        stream: str,
        to: int,
        *,
        by: str,
        reason: str,
        learned_since: Literal["refuse", "pending"] = "refuse",
        without: Collection[str] | None = None,
        lock: Lock = nullcontext,
    ) -> Move:
        """Make a former champion the champion again.

        Args:
            stream: the stream.
            to: a version that has been champion.
            by: who decided.
            reason: why; required.
            learned_since: what becomes of the batches learned by the versions left behind:
                "refuse" them, or make them "pending" again, in the order they were learned in.
            without: fingerprints to refuse; the others are pending again. Overrules the former.
            lock: as for `promote`.

        Raises:
            RegistryError: `to` is champion already or never was, or no reason is given.
        """
        if learned_since not in ("refuse", "pending"):
            raise RegistryError(
                "Unknown fate of the batches learned since",
                found=repr(learned_since),
                expected="'refuse' or 'pending'",
            )
        all_or_none: Collection[str] | Literal["all"] = "all" if learned_since == "refuse" else ()
        refuse = all_or_none if without is None else without
        return self._promotion.roll_back(stream, to, by=by, reason=reason, refuse=refuse, lock=lock)

    def refuse(self, stream: str, number: int, *, by: str, reason: str) -> Move:
        """Log that a candidate was refused, by the gates or by a person."""
        return self._promotion.settle(stream, number, "refuse", by=by, reason=reason)

    def hold(self, stream: str, number: int, *, by: str, reason: str) -> Move:
        """Log that a candidate waits for a person."""
        return self._promotion.settle(stream, number, "hold", by=by, reason=reason)

    def supersede(self, stream: str, number: int, *, by: str, reason: str) -> Move:
        """Log that a held candidate was put aside; its batch is pending again."""
        return self._promotion.settle(stream, number, "supersede", by=by, reason=reason)

    def release(
        self,
        stream: str,
        batches: Iterable[str],
        *,
        by: str,
        reason: str,
        after: datetime | None = None,
    ) -> Move:
        """Make refused batches pending again.

        Args:
            stream: the stream.
            batches: their fingerprints.
            by: who decided.
            reason: why; required.
            after: what the entry must come after in time, be this machine's clock behind.
        """
        return self._promotion.release(
            stream, frozenset(batches), by=by, reason=reason, after=after
        )

    def unfinished(self, book: Book) -> bool:
        """Say whether something goes on in a stream, or a crash left something half done."""
        return bool(book.never_logged) or repair.running(book.stream, self.connection)

    def repair(self, stream: str, *, lock: Lock = nullcontext) -> list[Move]:
        """Mend what a crash left half done; call it at the start of each round.

        Returns:
            The moves it finished or made; empty when all was well.

        Raises:
            RegistryError: a person moved the champion to where only a person can mend it.
        """
        repair.end_dead_runs(stream, self.connection)
        return repair.repair(
            stream, promotion=self._promotion, versions=self._versions, log=self._log, lock=lock
        )

    def download(self, version: Version, folder: Path) -> Path:
        """Put the version's state folder at `folder`, its checksums verified.

        Raises:
            StateError: the stored files are not those that were registered.
        """
        return package.fetch(self.connection, version, folder)

    def load(self, stream: str, which: str | int = CHAMPION) -> Any:
        """Return the version as an MLflow pyfunc model: `.predict(frame, params={"draws": 8})`.

        Args:
            stream: the stream.
            which: an alias or a version number.

        Raises:
            UnknownVersion: there is no such alias or version.
        """
        if isinstance(which, int):
            version: Version | None = self.version(stream, which)
        else:
            version = self._at(stream, which)
        if version is None:
            raise UnknownVersion(
                f"Stream {stream!r} has no {which}",
                remedy="Land a batch and run a round; its first promotion makes the champion.",
            )
        with self.connection.translated(f"load {version}"):
            self.connection.claim_process()
            return pyfunc().load_model(f"models:/{stream}/{version.number}")

    def link(self, record: Version | RoundRun) -> str | None:
        """Return the address of a version's or a run's page, if there is a server to show it."""
        return pages.page(self.connection.uri, record)

    def _at(self, stream: str, alias: str) -> Version | None:
        number = self._versions.number(stream, alias)
        return None if number is None else self._versions.one(stream, number)
