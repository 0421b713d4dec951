"""Rebuild a chain without a bad batch: go back to before it, then learn the others again.

The champion goes back at once, which ends the incident; every batch learned since is pending again
in its old order, but the bad one, which is refused. Then each is a round like any other, judged by
the gates and promoted by itself. A replay that is killed anywhere has therefore nothing to mend:
the champion is a version that passed its gates, and what is left is pending.

A round's seed comes from the stream and the batch, and its prior from its parent: the chain that
results is, bit for bit on a CPU, the one that never learned the bad batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from bhpeft.data.batch import Batch
from bhpeft.errors import BatchError, BatchIncomplete, UnknownVersion
from bhpeft.registry import Book, Registry, Version
from bhpeft.registry.promotion import Lock
from bhpeft.rounds.backlog import landing_of
from bhpeft.rounds.learn import Outcome, learn
from bhpeft.rounds.turn import turn
from bhpeft.stream import Stream


@dataclass(frozen=True)
class ReplayPlan:
    """A replay, planned or begun.

    Attributes:
        start: the version to go back to.
        without: fingerprints of the batches that are not learned again.
        again: fingerprints of those that are, in order.
        begun: whether the champion has gone back already.
    """

    start: int
    without: tuple[str, ...]
    again: tuple[str, ...]
    begun: bool


def plan_replay(
    stream: Stream, registry: Registry, without: Sequence[str], start: int | None = None
) -> ReplayPlan:
    """Return what a replay would do; nothing is changed.

    Args:
        stream: the stream.
        registry: where its chain is.
        without: ids of the bad batches, or the beginnings of their digests; if none is named, the
            one learned right after `start`.
        start: the version to go back to; by default the one before the first bad batch.

    Raises:
        BatchError: the chain has not learned such a batch.
        BatchIncomplete: a batch to be learned again is not where it landed any more.
        UnknownVersion: `start` is not on the chain, or a bad batch was learned before it.
    """
    book = registry.book(stream.name)
    begun = _begun(book, without, start)
    plan = begun or _planned(book, without, start)
    names, landing = book.batch_ids, landing_of(stream)
    left = [digest for digest in plan.again if not begun or digest not in book.learned]
    gone = [names[digest] for digest in left if landing.holding(digest, names[digest]) is None]
    if gone:
        raise BatchIncomplete(
            f"A batch of {stream.name} to be learned again is not where it landed any more",
            found=f"no {', '.join(gone)}",
            expected="every batch learned since, as it landed",
            remedy="Put it back, or leave it out with --without. Nothing was moved.",
        )
    return plan


def begin_replay(
    stream: Stream, registry: Registry, plan: ReplayPlan, *, by: str, reason: str, lock: Lock
) -> None:
    """Move the champion back, unless an interrupted attempt has done so."""
    if plan.begun:
        return
    registry.roll_back(
        stream.name, plan.start, by=by, reason=reason, without=plan.without, lock=lock
    )


def next_of_replay(plan: ReplayPlan, batches: Sequence[Batch]) -> Batch | None:
    """Return the batch to be learned next, or None where the replay is through."""
    first = batches[0] if batches else None
    return first if first is not None and first.digest in plan.again else None


def replay(
    stream: Stream,
    registry: Registry,
    *,
    without: Sequence[str] = (),
    start: int | None = None,
    by: str,
    reason: str,
    lock: Lock = nullcontext,
    learn: Callable[..., Outcome] = learn,
) -> list[Outcome]:
    """Go back to before the bad batches and learn the others again; see `plan_replay`.

    Run it again after it was interrupted, with the same batches: it goes on where it was.
    """
    plan = plan_replay(stream, registry, without, start)
    begin_replay(stream, registry, plan, by=by, reason=reason, lock=lock)
    outcomes = []
    while batch := next_of_replay(plan, turn(stream, registry, lock=lock, by=by).batches):
        outcomes.append(learn(stream, batch, registry, lock=lock, by=by))
    return outcomes


def _begun(book: Book, without: Sequence[str], start: int | None) -> ReplayPlan | None:
    """Return the replay that an interrupted attempt with the same batches has begun."""
    move = book.last_rollback
    if move is None or move.to_version is None or move.to_version not in _numbers(book.chain):
        return None
    bad, names = move.refused_batches, book.batch_ids
    if not bad or set(bad) & book.learned or start not in (None, move.to_version):
        return None
    named = all(any(_is(digest, names, name) for digest in bad) for name in without)
    if not named or (without and len(without) != len(bad)):
        return None
    return ReplayPlan(move.to_version, bad, move.released_batches, begun=True)


def _planned(book: Book, without: Sequence[str], start: int | None) -> ReplayPlan:
    names, chain = book.batch_ids, book.chain[::-1]
    bad = [_digest(name, names, chain, book.stream) for name in without]
    if not bad:
        bad = _learned_next(chain, start, book.stream)
    first = next(v for v in chain if set(v.batches) & set(bad))
    if start is None:
        start = first.parent
    before = _numbers(chain[: chain.index(first)])
    if start is None or start not in before:
        known = ", ".join(f"v{number}" for number in before) or "none: it is the chain's first"
        raise UnknownVersion(
            f"{book.stream} cannot be replayed from {'its beginning' if start is None else start}",
            found=f"{names[bad[0]]} learned by v{first.number}",
            expected=f"a version of its chain from before: {known}",
            remedy="The first batch of a chain cannot be taken out of it: start a new stream.",
        )
    again = [
        digest
        for version in chain[before.index(start) + 1 :]
        for digest in version.batches
        if digest not in bad
    ]
    return ReplayPlan(start, tuple(bad), tuple(again), begun=False)


def _digest(name: str, names: dict[str, str], chain: list[Version], stream: str) -> str:
    learned = [digest for version in chain for digest in version.batches]
    found = [digest for digest in learned if _is(digest, names, name)]
    if len(found) == 1:
        return found[0]
    raise BatchError(
        f"The chain of {stream}'s champion has learned no single batch {name!r}",
        expected=f"one of {', '.join(names[digest] for digest in learned) or 'none yet'}",
        remedy=f"See `bhpeft history {stream}`.",
    )


def _learned_next(chain: list[Version], start: int | None, stream: str) -> list[str]:
    """Return the batches of the version right after `start`, which is the last good one."""
    numbers = _numbers(chain)
    if start is None or start not in numbers or start == numbers[-1]:
        raise UnknownVersion(
            f"It is not said which batch of {stream} is bad",
            found=f"version {start}" if start else "neither a batch nor a version",
            expected=f"a version with others after it: {', '.join(f'v{n}' for n in numbers[:-1])}",
            remedy="Name the batch: --without BATCH, or the last good version.",
        )
    return list(chain[numbers.index(start) + 1].batches)


def _is(digest: str, names: dict[str, str], name: str) -> bool:
    return names.get(digest) == name or (len(name) >= 6 and digest.startswith(name))


def _numbers(versions: Sequence[Version]) -> list[int]:
    return [version.number for version in versions]
