"""Make a batch pending again that was parked, refused or put in quarantine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bhpeft.data.quarantine import quarantined
from bhpeft.data.quarantine import release as let_out
from bhpeft.errors import BatchError
from bhpeft.registry import Book, Registry
from bhpeft.rounds.backlog import parked
from bhpeft.stream import Stream


@dataclass(frozen=True)
class Aside:
    """A landed batch that no round will learn as things are.

    Attributes:
        batch_id, digest: the batch.
        state: "parked", "refused" or "quarantined".
        why: the last failure, the refusal's reason, the broken rule.
    """

    batch_id: str
    digest: str
    state: str
    why: str


def set_aside_batches(stream: Stream, book: Book) -> list[Aside]:
    """Return the batches that are parked, refused or in quarantine, by id."""
    found = {
        digest: Aside(failure.batch_id, digest, "quarantined", failure.message)
        for digest, failure in book.quarantined.items()
    }
    names = book.batch_ids
    for digest in book.refused - book.learned:
        name = names.get(digest, digest[:12])
        found[digest] = Aside(name, digest, "refused", _refusal(book, digest))
    for digest, failures in parked(stream, book).items():
        last = failures[-1]
        why = f"{len(failures)} failures in a row, the last: {last.message}"
        found[digest] = Aside(last.batch_id, digest, "parked", why)
    return sorted(found.values(), key=lambda aside: aside.batch_id)


def release(stream: Stream, batch: str, registry: Registry, *, by: str, reason: str) -> Aside:
    """Make a batch pending again; return what it was.

    Args:
        stream: the stream.
        batch: the batch's id, or the beginning of its digest.
        registry: where the release is logged.
        by: who decided.
        reason: why; required.

    Raises:
        BatchError: no such batch is aside, or several are.
        RegistryError: no reason is given.
    """
    book = registry.book(stream.name)
    aside = _the_one(stream, batch, book)
    # A worker's clock may be ahead of this machine's: its failures are over all the same.
    after = max((f.when for f in book.failures if f.digest == aside.digest), default=None)
    registry.release(stream.name, [aside.digest], by=by, reason=reason, after=after)
    if aside.digest in quarantined(stream.quarantine):
        # The record is on the machine that made it, which need not be this one.
        let_out(stream.quarantine, aside.digest, by, reason)
    return aside


def _the_one(stream: Stream, batch: str, book: Book) -> Aside:
    aside = set_aside_batches(stream, book)
    ways: tuple[Callable[[Aside], bool], ...] = (
        lambda one: one.batch_id == batch,
        lambda one: bool(batch) and one.digest.startswith(batch),
    )
    for way in ways:
        found = [one for one in aside if way(one)]
        if len(found) == 1:
            return found[0]
    known = ", ".join(f"{one.batch_id} ({one.digest[:8]}, {one.state})" for one in aside)
    raise BatchError(
        f"No single batch {batch!r} of {stream.name} is parked, refused or in quarantine",
        expected=f"one of {known}" if known else "one; there is none",
        remedy="Name it by its id, or by the first letters of its digest.",
    )


def _refusal(book: Book, digest: str) -> str:
    said = [(m.when, m.why) for m in book.moves if digest in m.refused_batches]
    said += [
        (v.created, v.tags.get("bhpeft.reason", "refused"))
        for v in book.versions.values()
        if digest in v.batches and v.decision == "refused"
    ]
    return max(said, default=(None, "refused"))[1]
