"""Cut a table's commits into batches, given what is settled: the arithmetic, with no table in it.

A batch is a span: whole commits up to so many rows, or a window of the rows of one larger commit.
What a chain has learned is a set of spans, named by their batch ids, so the cursor is read from the
registry's lineage, and a rollback moves it back by itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

_WHOLE = re.compile(r"v(\d+)-v(\d+)")
_WINDOW = re.compile(r"v(\d+)-rows(\d+)-(\d+)")


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
    for commit in commits:
        mine = [s for s in settled if s.first <= commit.version <= s.last]
        if not mine:
            yield commit
        elif any(span.high is None for span in mine):
            yield Span(commit.version, commit.version, 0, 0)
        else:
            yield from _gaps(commit, mine)


def cut(
    left: Iterable[Commit | Span], most: int, ends: Mapping[int, int]
) -> list[tuple[Span, int]]:
    """Return the spans to learn, each with its number of rows, in the order of the table.

    Args:
        left: what `unsettled` yields.
        most: most rows of a span; a larger commit is cut into windows.
        ends: first version → last, of spans that have been seen: a batch that waits does not grow,
            or a retry of its round would be another batch.
    """
    spans: list[tuple[Span, int]] = []
    first, last, rows = -1, -1, 0

    def close() -> None:
        nonlocal first, rows
        if first >= 0:
            spans.append((Span(first, last), rows))
        first, rows = -1, 0

    for piece in left:
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
        spans += _alone(piece, most)
    close()
    return spans


def _alone(piece: Commit | Span, most: int) -> Iterator[tuple[Span, int]]:
    """Yield the spans of what cannot be put together with its neighbours."""
    version = piece.version if isinstance(piece, Commit) else piece.first
    if isinstance(piece, Commit) and piece.rewrites:
        yield Span(version, version), piece.rows
        return
    low, high = (0, piece.rows) if isinstance(piece, Commit) else (piece.low, piece.high or 0)
    for start in range(low, high, most):
        end = min(start + most, high)
        yield Span(version, version, start, end), end - start


def _gaps(commit: Commit, settled: Iterable[Span]) -> Iterator[Span]:
    start = 0
    for span in sorted(settled, key=lambda s: s.low):
        if span.low > start:
            yield Span(commit.version, commit.version, start, span.low)
        start = max(start, span.high or 0)
    yield Span(commit.version, commit.version, start, max(start, commit.rows))
