"""Whose turn it is: which batches may be learned now, and why none may.

Pending batches are learned in order, so one thing can hold up all that came after it: a candidate
that waits for a person, or a batch whose round failed and is tried again later.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bhpeft.data.batch import Batch
from bhpeft.registry import Book, Registry
from bhpeft.registry.promotion import Lock
from bhpeft.rounds.approval import expire, supersede
from bhpeft.rounds.backlog import VAGUE, waiting
from bhpeft.stream import Stream


@dataclass(frozen=True)
class Turn:
    """What a round may learn now.

    Attributes:
        batches: those whose turn it is, oldest first; none where `why` says why.
        pending: all that wait.
        why: one line for a person; empty where there is nothing to explain.
        later: when the first is tried again after a failure; who names a batch need not wait.
        unfinished: something goes on, or a crash left it half done; only asked where there are no
            `batches`, since a round begins by mending.
    """

    batches: tuple[Batch, ...]
    pending: tuple[Batch, ...]
    why: str = ""
    later: datetime | None = None
    unfinished: bool = False


def turn(
    stream: Stream,
    registry: Registry,
    *,
    lock: Lock = nullcontext,
    by: str = "bhpeft",
    now: datetime | None = None,
) -> Turn:
    """Return what may be learned now, after settling candidates that waited for a person too long.

    Args:
        stream: the stream.
        registry: where versions live.
        lock: makes the context under which candidates are settled.
        by: who puts a candidate aside, where the stream says a new batch does.
        now: the time; by default this machine's.
    """
    now, book = now or datetime.now(UTC), registry.book(stream.name)
    if expire(stream, registry, lock=lock, now=now, book=book):
        book = registry.book(stream.name)
    batches = waiting(stream, book)
    if not batches:
        return Turn((), (), unfinished=registry.unfinished(book))
    if book.held and stream.approval.new_batch == "supersede":
        why = f"{batches[0].batch_id} landed before a person decided"
        supersede(stream, registry, by=by, reason=why, lock=lock)
        book = registry.book(stream.name)
        batches = waiting(stream, book)
    if book.held:
        why = _held_up(stream, book, now)
        return Turn((), batches, why, unfinished=registry.unfinished(book))
    later = try_again_at(stream, book, batches[0])
    if later is not None and later > now:
        last = book.failures_in_a_row(batches[0].digest)[-1]
        why = f"{batches[0].batch_id} failed ({last.kind}) and is tried again at {later:%H:%M} UTC"
        return Turn((), batches, why, later, registry.unfinished(book))
    return Turn(batches, batches)


def try_again_at(stream: Stream, book: Book, batch: Batch) -> datetime | None:
    """Return when a failed batch is due again; None where it never failed."""
    row = [f for f in book.failures_in_a_row(batch.digest) if f.kind not in VAGUE]
    return row[-1].when + back_off(stream, len(row)) if row else None


def back_off(stream: Stream, failures: int) -> timedelta:
    """Return how long to wait after so many failures in a row: doubling, at most a day."""
    first: timedelta = stream.retry.first_wait
    return min(first * 2 ** (failures - 1), timedelta(days=1))


def _held_up(stream: Stream, book: Book, now: datetime) -> str:
    named = " and ".join(f"v{version.number}" for version in book.held)
    oldest = min(book.held_since(version) for version in book.held)
    patience = stream.approval.patience
    until = "" if patience is None else f" until {oldest + patience:%Y-%m-%d %H:%M} UTC"
    return f"{named} waits for a person's decision{until}: bhpeft approve or reject"
