"""What a stream has still to learn, read from where its batches land and from the registry."""

from __future__ import annotations

from collections.abc import Sequence

from bhpeft.data.batch import Batch, merged
from bhpeft.data.landings import Landing, Place, landing_at
from bhpeft.data.spans import Past
from bhpeft.registry import Book, Failure, Registry
from bhpeft.registry.records import DIED, QUARANTINED, UNEXPECTED
from bhpeft.stream import Stream

# These say little about the batch: three of them are one failure, and there is no back-off.
VAGUE = frozenset({DIED, UNEXPECTED})
VAGUE_A_FAILURE = 3


def landing_of(stream: Stream) -> Landing:
    """Return where the stream's batches land."""
    data = stream.data
    return landing_at(
        Place(stream.location, stream.name, stream.cache, data.delta_rows, data.delta_from)
    )


def pending(stream: Stream, registry: Registry) -> list[Batch]:
    """Return the batches still to be learned, oldest first.

    Those whose turn it is are in `bhpeft.rounds.turn`.
    """
    return list(waiting(stream, registry.book(stream.name)))


def waiting(stream: Stream, book: Book) -> tuple[Batch, ...]:
    """Return the batches still to be learned, oldest first; those of a rollback before all others.

    pending = landed − learned by the champion's chain − refused − held − parked − quarantined. A
    batch delivered twice under two names is one batch.
    """
    found: dict[str, Batch] = {}
    for batch in landing_of(stream).landed(_settled(stream, book), _past(book)):
        found.setdefault(batch.digest, batch)
    # What a rollback made pending keeps the order it was learned in, whatever its event times.
    again = {digest: position for position, digest in enumerate(book.relearning)}
    return tuple(sorted(found.values(), key=lambda one: again.get(one.digest, len(again))))


def gathered(stream: Stream, registry: Registry, following: Sequence[Batch]) -> Batch:
    """Return what one round learns of the batches whose turn it is: the first, or several merged.

    Only what landed under the first one's version of the contract is merged with it, and nothing
    that has failed: a batch that brings rounds down is then alone in them, and is the one parked.

    Args:
        stream: its `[data] backlog` and `merge_rows`.
        registry: knows which batches have failed.
        following: at least one batch, oldest first.
    """
    if stream.data.backlog == "each" or len(following) == 1:
        return following[0]
    book, chosen, rows = registry.book(stream.name), [following[0]], following[0].rows
    alone = {batch.digest for batch in following if book.failures_in_a_row(batch.digest)}
    # What a rollback made pending is learned again as it was: one by one, in its old order.
    alone |= set(book.relearning)
    if following[0].digest in alone:
        return following[0]
    for batch in following[1:]:
        rows += batch.rows
        same = batch.contract_version == following[0].contract_version
        if rows > stream.data.merge_rows or not same or batch.digest in alone:
            break
        chosen.append(batch)
    return merged(chosen)


def settled(stream: Stream, registry: Registry) -> dict[str, str]:
    """Return digest → batch id of all that is learned, refused, held, parked or quarantined."""
    return _settled(stream, registry.book(stream.name))


def parked(stream: Stream, book: Book) -> dict[str, list[Failure]]:
    """Return the batches that failed so often that a person must look, by digest."""
    found = {}
    for digest in {failure.digest for failure in book.failures} - book.learned:
        row = [f for f in book.failures_in_a_row(digest) if f.kind != QUARANTINED]
        vague = sum(failure.kind in VAGUE for failure in row)
        if len(row) - vague + vague // VAGUE_A_FAILURE >= stream.retry.attempts:
            found[digest] = row
    return found


def _past(book: Book) -> Past:
    """Return what has been learned before, a rollback's first and then the newest, and tried."""
    names = book.batch_ids
    learned = [
        *book.relearning,
        *(d for v in reversed([*book.versions.values()]) for d in v.batches),
    ]
    return Past(
        learned={digest: names[digest] for digest in learned if digest in names},
        tried={failure.digest: failure.batch_id for failure in book.failures},
    )


def _settled(stream: Stream, book: Book) -> dict[str, str]:
    digests = book.learned | book.refused
    digests |= {digest for version in book.held for digest in version.batches}
    names = book.batch_ids
    parked_ids = {
        digest: failures[-1].batch_id for digest, failures in parked(stream, book).items()
    }
    aside = {digest: failure.batch_id for digest, failure in book.quarantined.items()}
    return {digest: names.get(digest, "") for digest in digests} | parked_ids | aside
