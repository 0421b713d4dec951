"""Cut a table's commits into batches, given what is settled: the arithmetic, with no table in it.

A batch is a span: whole commits up to so many rows, or a window of the rows of one larger commit.
What a chain has learned is a set of spans, named by their batch ids, so the cursor is read from the
registry's lineage, and a rollback moves it back by itself.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

_WHOLE = re.compile(r"v(\d+)-v(\d+)")
_WINDOW = re.compile(r"v(\d+)-rows(\d+)-(\d+)")

# A version and a row of it; the row behind a version's last one is infinite.
_Row = tuple[int, float]


@dataclass(frozen=True)
class Commit:
    """What one version of a table added.

    Attributes:
        version: the version's number.
        rows: how many rows it appended.
        when: its time, by its writer's clock.
        rewrites: the operation, if it changed rows in a way that is no appending; else empty.
    """

    version: int
    rows: int
    when: datetime
    rewrites: str = ""


@dataclass(frozen=True)
class Span:
    """The rows of one batch: versions `first` to `last`, or rows [low, high) of version `first`."""

    first: int
    last: int
    low: int = 0
    high: int | None = None

    @property
    def batch_id(self) -> str:
        """Return the id of the span's batch: v3-v7, or v3-rows0-999."""
        if self.high is None:
            return f"v{self.first}-v{self.last}"
        return f"v{self.first}-rows{self.low}-{self.high - 1}"


@dataclass(frozen=True)
class Past:
    """What the registry remembers of batches that may wait again, as digest → batch id.

    Attributes:
        learned: what some version was made of, also where a rollback has left it behind; of two
            that have rows in common, the one to be made again comes first.
        tried: what rounds have failed with.
    """

    learned: Mapping[str, str] = field(default_factory=dict)
    tried: Mapping[str, str] = field(default_factory=dict)


NO_PAST = Past()


def span_of(batch_id: str) -> Span | None:
    """Return the span that a batch id names, or None if it names none."""
    if whole := _WHOLE.fullmatch(batch_id):
        return Span(int(whole[1]), int(whole[2]))
    if window := _WINDOW.fullmatch(batch_id):
        version = int(window[1])
        return Span(version, version, int(window[2]), int(window[3]) + 1)
    return None


def unsettled(commits: Iterable[Commit], settled: Collection[Span]) -> Iterator[Commit | Span]:
    """Yield what is left to learn: whole commits, and windows of those that are settled in part.

    A settled commit is yielded as a span of no rows, since no batch may reach across it.
    """
    of_version: dict[int, list[Span]] = {}
    for span in settled:
        for version in range(span.first, span.last + 1):
            of_version.setdefault(version, []).append(span)
    for commit in commits:
        mine = of_version.get(commit.version)
        if not mine:
            yield commit
        elif any(span.high is None for span in mine):
            yield Span(commit.version, commit.version, 0, 0)
        else:
            yield from _gaps(commit, mine)


def apart(spans: Iterable[Span]) -> list[Span]:
    """Return spans that have no row in common: of those that overlap, the first.

    A table's past is as long as its stream is old, and each look at the table asks: every span is
    compared with its neighbours only.
    """
    found: list[Span] = []
    taken: list[tuple[_Row, _Row]] = []  # in the order of the table
    for span in spans:
        begins, ends = _reach(span)
        at = bisect.bisect(taken, (begins, ends))
        after_last = at == 0 or taken[at - 1][1] <= begins
        before_next = at == len(taken) or ends <= taken[at][0]
        if after_last and before_next:
            taken.insert(at, (begins, ends))
            found.append(span)
    return found


def cut(
    left: Iterable[Commit | Span],
    most: int,
    ends: Mapping[int, int],
    learned: Collection[Span] = (),
) -> list[tuple[Span, int]]:
    """Return the spans to learn, each with its number of rows, in the order of the table.

    Args:
        left: what `unsettled` yields.
        most: most rows of a span; a larger commit is cut into windows.
        ends: first version → last, of spans that have been seen: a batch that waits does not grow,
            or a retry of its round would be another batch.
        learned: spans that have been learned before, `apart`: what of them is left is cut as it was
            then, whatever `most` is now.
    """
    spans: list[tuple[Span, int]] = []
    first, last, rows = -1, -1, 0

    def close() -> None:
        nonlocal first, rows
        if first >= 0:
            spans.append((Span(first, last), rows))
        first, rows = -1, 0

    windows = [span for span in learned if span.high is not None]
    for piece in _as_before(list(left), learned):
        if isinstance(piece, Commit) and not piece.rewrites and piece.rows <= most:
            if piece.rows == 0:
                continue
            end = ends.get(first, piece.version)
            if first >= 0 and (rows + piece.rows > most or piece.version > end):
                close()
            first, last = (piece.version if first < 0 else first), piece.version
            rows += piece.rows
            continue
        close()
        spans += _alone(piece, most, windows)
    close()
    return spans


@dataclass(frozen=True)
class _Again:
    """Whole commits that are one batch as before."""

    span: Span
    rows: int


def _as_before(
    left: Sequence[Commit | Span], learned: Iterable[Span]
) -> Iterator[Commit | Span | _Again]:
    """Yield what is left with the commits that were learned together taken together."""
    plain = {p.version: p.rows for p in left if isinstance(p, Commit) and not p.rewrites}
    cut_up = {span.first for span in learned if span.high is not None}
    again = {
        span.first: span
        for span in learned
        if span.high is None and all(v in plain for v in range(span.first, span.last + 1))
    }
    behind = -1
    for piece in left:
        if not isinstance(piece, Commit) or piece.rewrites:
            yield piece
        elif piece.version in again:
            span = again[piece.version]
            behind = span.last
            yield _Again(span, sum(plain[v] for v in range(span.first, span.last + 1)))
        elif piece.version in cut_up:
            yield Span(piece.version, piece.version, 0, piece.rows)
        elif piece.version > behind:
            yield piece


def _alone(
    piece: Commit | Span | _Again, most: int, windows: Iterable[Span]
) -> Iterator[tuple[Span, int]]:
    """Yield the spans of what cannot be put together with its neighbours."""
    if isinstance(piece, _Again):
        yield piece.span, piece.rows
        return
    version = piece.version if isinstance(piece, Commit) else piece.first
    if isinstance(piece, Commit) and piece.rewrites:
        yield Span(version, version), piece.rows
        return
    low, high = (0, piece.rows) if isinstance(piece, Commit) else (piece.low, piece.high or 0)
    before = {span.low: span.high or 0 for span in windows if span.first == version}
    while low < high:
        end = before.get(low, low + most)
        end = min([end, high, *(at for at in before if low < at)])
        yield Span(version, version, low, end), end - low
        low = end


def _reach(span: Span) -> tuple[_Row, _Row]:
    """Return the first row of a span and the first behind it."""
    return (span.first, span.low), (span.last, math.inf if span.high is None else span.high)


def _gaps(commit: Commit, settled: Iterable[Span]) -> Iterator[Span]:
    start = 0
    for span in sorted(settled, key=lambda s: s.low):
        if span.low > start:
            yield Span(commit.version, commit.version, start, span.low)
        start = max(start, span.high or 0)
    yield Span(commit.version, commit.version, start, max(start, commit.rows))
