"""A person's decision about a candidate that its gates held, or that needs one by rule.

A round never waits for a person: it ends with its candidate held and nothing moved. Whoever
decides does so later, in a run of its own.
"""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime

from bhpeft.errors import NotAllowed, NotWaiting
from bhpeft.registry import Book, Move, Registry, Version
from bhpeft.registry.promotion import Lock
from bhpeft.registry.records import HELD
from bhpeft.stream import Stream

EXPIRY = "bhpeft expiry"
"""Who refuses a candidate nobody decided about."""


def approve(
    stream: Stream,
    number: int,
    registry: Registry,
    *,
    by: str,
    reason: str,
    lock: Lock = nullcontext,
) -> Move:
    """Make a held candidate the champion; saying it twice changes nothing.

    Raises:
        NotWaiting: it does not wait for a decision.
        NotAllowed: the one who ran the round approves it, and the stream wants a second person;
            or the registry's log-in may not.
        StaleParent: the champion moved meanwhile; the candidate's batch is pending again.
    """
    book = registry.book(stream.name)
    version = registry.version(stream.name, number)
    if book.champion is None or book.champion.number != number:
        _check_waits(version, book)
        _check_person(stream, version, book, by, registry.account)
    return registry.promote(
        stream.name, number, expected_parent=version.parent, by=by, reason=reason, lock=lock
    )


def reject(
    stream: Stream,
    number: int,
    registry: Registry,
    *,
    by: str,
    reason: str,
    lock: Lock = nullcontext,
) -> Move:
    """Refuse a held candidate and its batch; saying it twice changes nothing.

    Raises:
        NotWaiting: it does not wait for a decision.
    """
    with lock():
        book = registry.book(stream.name)
        version = registry.version(stream.name, number)
        if book.last_word(version, "refuse") is None:
            _check_waits(version, book)
        return registry.refuse(stream.name, number, by=by, reason=reason)


def expire(
    stream: Stream,
    registry: Registry,
    *,
    lock: Lock = nullcontext,
    now: datetime | None = None,
    book: Book | None = None,
) -> list[Move]:
    """Refuse the candidates nobody has decided about for as long as the stream waits.

    Refused, not pending again: the same round would make the same candidate and hold it again, for
    ever, and what landed since would never be learned. The champion is untouched, and
    `bhpeft release` makes the batch pending again.
    """
    patience = stream.approval.patience
    if patience is None:
        return []
    book, now = book or registry.book(stream.name), now or datetime.now(UTC)
    late = [version for version in book.held if now - book.held_since(version) > patience]
    if not late:
        return []
    why = f"nobody decided within {stream.approval.expires}"
    with lock():
        still = {v.number for v in registry.held(stream.name)}
        return [
            registry.refuse(stream.name, version.number, by=EXPIRY, reason=why)
            for version in late
            if version.number in still
        ]


def supersede(
    stream: Stream, registry: Registry, *, by: str, reason: str, lock: Lock = nullcontext
) -> list[Move]:
    """Put the held candidates aside, so that their batches are learned again with what came."""
    with lock():
        return [
            registry.supersede(stream.name, version.number, by=by, reason=reason)
            for version in registry.held(stream.name)
        ]


def _check_waits(version: Version, book: Book) -> None:
    if version.decision == HELD and version in book.held:
        return
    waiting = ", ".join(f"v{held.number}" for held in book.held) or "none"
    found = f"decision {version.decision!r}"
    if version.decision == HELD:
        parent = "no champion" if version.parent is None else f"v{version.parent}"
        found = f"it continues {parent}, which is not the champion any more"
    raise NotWaiting(
        f"{version} does not wait for a decision",
        found=found,
        expected=f"a held candidate (waiting: {waiting})",
        remedy=f"See `bhpeft history {book.stream}`. A refused batch is made pending again with "
        f"`bhpeft release {book.stream} BATCH --reason …`.",
    )


def _check_person(stream: Stream, version: Version, book: Book, by: str, account: str) -> None:
    if not stream.approval.second_person:
        return
    if account and by != account:
        raise NotAllowed(
            f"{version} must be approved under one's own name",
            found=f"{by!r}, logged in at the registry as {account!r}",
            expected="the same",
            remedy="Log in as yourself (MLFLOW_TRACKING_USERNAME) and run `bhpeft approve`.",
        )
    held = book.last_word(version, "hold")
    if held is None or held.who != by:
        return
    raise NotAllowed(
        f"{version} needs a second person's approval",
        found=f"{by}, who ran its round",
        expected="somebody else",
        remedy="Ask a colleague; nothing was moved.",
    )
