"""Every stream at a glance: what is in use, what waits, what needs a person."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bhpeft.registry import Book, Registry, glanced
from bhpeft.rounds.backlog import waiting
from bhpeft.rounds.freshness import silence
from bhpeft.rounds.release import Aside, set_aside_batches
from bhpeft.stream import Stream


@dataclass(frozen=True)
class Glance:
    """One stream at a glance.

    Attributes:
        stream: its name.
        champion: the version in use; None before the first promotion.
        since: when the champion last moved (UTC).
        pending: ids of the batches that wait, in order.
        held: versions that wait for a person.
        aside: batches that are parked, refused or in quarantine.
        last_decision: the last version's, with its number.
        stale: one line where a batch is overdue.
        failing: how often the batch whose turn it is has failed in a row, and how the last time.
    """

    stream: str
    champion: int | None
    since: datetime | None
    pending: list[str]
    held: list[int]
    aside: list[Aside]
    last_decision: str | None
    last_version: int | None
    failing: str | None
    stale: str | None = None

    @property
    def aside_counts(self) -> dict[str, int]:
        """Return how many batches are parked, refused, in quarantine; only those there are."""
        return dict(Counter(one.state for one in self.aside))


def overview(streams: Sequence[Stream]) -> list[Glance]:
    """Return every stream at a glance; a few calls a registry, however many streams it holds."""
    by_registry: dict[str, list[str]] = defaultdict(list)
    for stream in streams:
        by_registry[stream.tracking_uri].append(stream.name)
    books = {uri: glanced(Registry(uri), names) for uri, names in by_registry.items()}
    empty = {stream.name: Book(stream.name, {}, []) for stream in streams}
    return [glance(s, books[s.tracking_uri].get(s.name, empty[s.name])) for s in streams]


def glance(stream: Stream, book: Book) -> Glance:
    """Return one stream at a glance."""
    batches = waiting(stream, book)
    last = book.versions[max(book.versions)] if book.versions else None
    failures = book.failures_in_a_row(batches[0].digest) if batches else []
    late = silence(stream)
    return Glance(
        stream=stream.name,
        champion=book.champion.number if book.champion else None,
        since=book.since,
        pending=[batch.batch_id for batch in batches],
        held=[version.number for version in book.held],
        aside=set_aside_batches(stream, book),
        last_decision=last.decision if last else None,
        last_version=last.number if last else None,
        failing=f"{len(failures)} × {failures[-1].kind}" if failures else None,
        stale=late.message if late else None,
    )
