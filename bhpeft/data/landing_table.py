"""Batches as rows appended to a Delta table, on disk or in a bucket.

Each version of the table that appends is learned once. Compaction and deletion add nothing; an
update, a merge or an overwrite rewrites rows that may have been learned, which no posterior can
take back: such a version becomes a batch of its own, for the round to refuse with this reason.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from bhpeft.data import object_store, spans, staging
from bhpeft.data.batch import Batch, Manifest, Part, Unreadable, file_sha256
from bhpeft.data.contract import Contract
from bhpeft.data.spans import NO_PAST, Commit, Past, Span
from bhpeft.data.table_known import Known
from bhpeft.errors import BatchCorrupt, LandingError, LandingUnreachable

# Operations that change files and add no row.
ROWLESS = {"OPTIMIZE", "DELETE", "VACUUM START", "VACUUM END", "REORG", "FSCK", "COMPUTE STATS"}
PART = "part-00000.parquet"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Commits to look back over for the last one that appended.
_RECENT = 50


@dataclass(frozen=True)
class Table:
    """A `Landing` in a Delta table.

    Attributes:
        address: the table's folder, or `s3://bucket/table`.
        stream: the stream's name.
        cache: a local folder for staged rows and what is known of past versions.
        rows: most rows of a batch.
        since: the first version whose rows are learned.
    """

    address: str
    stream: str
    cache: Path
    rows: int = 50_000
    since: int = 0

    @property
    def desk(self) -> Path:
        """Refuse: a table is written by its own producers.

        Raises:
            LandingError: always.
        """
        raise LandingError(
            f"Nothing is landed in the table of {self.stream!r}",
            found=f"[data] delta = {self.address!r}",
            remedy="Append the rows to the table; they are the next batch.",
        )

    def landed(self, settled: Mapping[str, str], past: Past = NO_PAST) -> list[Batch]:
        """Return the rows past the cursor, as batches in the order of the table."""
        with _translated(self.address):
            table = self._open()
            identity = str(table.metadata().id)
            known = self._known(table)
            commits = self._commits(table, known)
        done, learned, tried = (
            _spans(identity, names) for names in (settled, past.learned, past.tried)
        )
        # Another machine may have cut what waits; what it has tried is the same batch here.
        ends = known.ends | {span.first: span.last for span in tried if span.high is None}
        left = spans.unsettled(commits, done)
        found = spans.cut(left, self.rows, ends, spans.apart(learned))
        known.ends.update({span.first: span.last for span, _ in found if span.high is None})
        known.write()
        times = {commit.version: commit.when for commit in commits}
        return [self._batch(identity, span, rows, times[span.last]) for span, rows in found]

    def unreadable(self) -> list[Unreadable]:
        """Return nothing: a table that cannot be read is an error, not a batch."""
        return []

    def newest(self) -> datetime | None:
        """Return when rows were last written."""
        with _translated(self.address):
            recent = self._open().history(limit=_RECENT)
        return max((_time(c) for c in recent if c["operation"] not in ROWLESS), default=None)

    def holding(self, digest: str, batch_id: str | None = None) -> Batch | None:
        """Return the batch of an id if its versions are still there and are this table's."""
        span = spans.span_of(batch_id) if batch_id else None
        if span is None:
            return None
        with _translated(self.address):
            table = self._open()
            identity = str(table.metadata().id)
            here = self.since <= span.first and span.last <= table.version()
            if not here or _digest(identity, span.batch_id) != digest:
                return None
            try:
                self._open(max(span.first - 1, 0))
            except LandingError:
                # Its log was cut off, oldest versions first: nobody can tell its rows any more.
                return None
            commits = self._commits(table, self._known(table))
        mine = [commit for commit in commits if span.first <= commit.version <= span.last]
        rows = sum(c.rows for c in mine) if span.high is None else span.high - span.low
        return self._batch(identity, span, rows, mine[-1].when)

    def publish(self, folder: Path, batch_id: str, manifest: Manifest) -> Batch:
        """Refuse, as `desk` does."""
        raise AssertionError(self.desk)

    def staged(self, batch: Batch, contract: Contract) -> Batch:
        """Return the batch with its rows in one Parquet file on this machine.

        Raises:
            BatchCorrupt: its version rewrites rows, or its files are gone.
        """
        return staging.staged(batch, partial(self._fetch, batch, contract))

    def _fetch(self, batch: Batch, contract: Contract, folder: Path) -> Manifest:
        import pyarrow.parquet as pq

        span = spans.span_of(batch.batch_id)
        assert span is not None
        target, rows, writer = folder / PART, 0, None
        with _translated(self.address):
            for chunk in self._rows(span):
                writer = writer or pq.ParquetWriter(target, chunk.schema)
                writer.write_batch(chunk)
                rows += chunk.num_rows
        if writer is None:
            raise _not_appended(batch, "no rows in it")
        writer.close()
        part = Part(name=PART, size=target.stat().st_size, sha256=file_sha256(target), rows=rows)
        return batch.manifest.model_copy(
            update={
                "files": (part,),
                "rows": rows,
                "contract": contract.name,
                "contract_version": contract.version,
            }
        )

    def _rows(self, span: Span) -> Iterator[Any]:
        """Yield a span's rows: version by version, file by file in the order of their names."""
        table = self._open()
        commits = {c.version: c for c in self._commits(table, self._known(table))}
        for version in range(span.first, span.last + 1):
            commit = commits[version]
            if commit.rewrites:
                raise BatchCorrupt(
                    f"Version {version} of {self.address} is no appending",
                    found=f"{commit.rewrites}, which rewrites rows that may have been learned",
                    expected="versions that append, compact or delete",
                    remedy="Append corrected rows as new ones; this version is passed over.",
                )
            if commit.rows:
                before = self._files(version - 1) if version else {}
                added = self._files(version).keys() - before.keys()
                yield from _window(self._chunks(version, added), span)

    def _chunks(self, version: int, added: set[str]) -> Iterator[Any]:
        dataset = self._open(version).to_pyarrow_dataset()
        fragments = [f for f in dataset.get_fragments() if unquote(f.path) in added]
        if len(fragments) != len(added):
            raise LandingError(
                f"Version {version} of {self.address} cannot be read whole",
                found=f"{len(fragments)} of the {len(added)} files it added",
                expected="all of them",
            )
        for fragment in sorted(fragments, key=lambda f: str(f.path)):
            yield from fragment.to_batches(schema=dataset.schema)

    def _commits(self, table: Any, known: Known) -> list[Commit]:
        """Return what each version from `since` on added; versions never change once known."""
        newest = int(table.version())
        first = next((v for v in range(self.since, newest + 1) if v not in known.commits), None)
        if first is not None:
            recent = {int(c["version"]): c for c in table.history(limit=newest - first + 1)}
            before = self._files(first - 1) if first else {}
            for version in range(first, newest + 1):
                now = self._files(version)
                commit = recent.get(version, {"operation": "an unknown one", "timestamp": 0})
                known.commits[version] = _commit(version, before, now, commit)
                before = now
        return [known.commits[v] for v in range(self.since, newest + 1)]

    def _files(self, version: int) -> dict[str, int]:
        """Return a version's files and how many rows each has."""
        import pyarrow as pa

        table = self._open(version)
        actions = pa.table(table.get_add_actions()).select(["path", "num_records"]).to_pylist()
        if any(action["num_records"] is None for action in actions):
            fragments = table.to_pyarrow_dataset().get_fragments()
            return {unquote(f.path): int(f.count_rows()) for f in fragments}
        return {unquote(action["path"]): int(action["num_records"]) for action in actions}

    def _known(self, table: Any) -> Known:
        return Known.read(self.cache / f"table-{table.metadata().id}.json")

    def _open(self, version: int | None = None) -> Any:
        try:
            from deltalake import DeltaTable
            from deltalake.exceptions import DeltaError
        except ImportError as problem:
            raise LandingError(
                "Reading a Delta table needs deltalake", remedy="pip install 'bhpeft[delta]'"
            ) from problem
        remote = self.address.startswith(object_store.SCHEME)
        if remote:
            object_store.path_of(self.address)
        options = object_store.table_options() if remote else None
        try:
            return DeltaTable(self.address, version=version, storage_options=options)
        except DeltaError as problem:
            there_is = "There is no Delta table" if version is None else f"No version {version}"
            raise LandingError(
                f"{there_is} at {self.address}",
                found=_plain(problem),
                expected="the table, with the log of its versions from [data] delta_from on",
                remedy="Correct the address, or set delta_from to the oldest version it still has.",
            ) from problem

    def _batch(self, identity: str, span: Span, rows: int, when: datetime) -> Batch:
        digest = _digest(identity, span.batch_id)
        # What its file will be is known once it is staged.
        part = Part(name=PART, size=0, sha256=digest, rows=rows)
        manifest = Manifest(
            files=(part,), rows=rows, contract_version="0", event_time=when, landed_at=when
        )
        folder = staging.staging_folder(self.cache, digest, self.stream, span.batch_id)
        origin = f"{self.address}@{span.batch_id}"
        return Batch(self.stream, span.batch_id, folder, manifest, digest, origin)


def _commit(
    version: int, before: Mapping[str, int], now: Mapping[str, int], entry: Mapping[str, Any]
) -> Commit:
    added = sum(now[path] for path in now.keys() - before.keys())
    removed = before.keys() - now.keys()
    operation = str(entry["operation"])
    if removed and operation in ROWLESS:
        return Commit(version, 0, _time(entry))
    return Commit(version, added, _time(entry), operation if removed else "")


def _window(chunks: Iterator[Any], span: Span) -> Iterator[Any]:
    """Yield the rows [low, high) of a commit; all of them where the span has no window."""
    start = 0
    for chunk in chunks:
        low = max(span.low - start, 0)
        high = chunk.num_rows if span.high is None else min(span.high - start, chunk.num_rows)
        if high > low:
            yield chunk.slice(low, high - low)
        start += chunk.num_rows


def _spans(identity: str, names: Mapping[str, str]) -> list[Span]:
    """Return the spans that batch ids name, where their digests are of this table."""
    return [
        span
        for digest, batch_id in names.items()
        if (span := spans.span_of(batch_id)) and _digest(identity, batch_id) == digest
    ]


def _digest(identity: str, batch_id: str) -> str:
    """Return a batch's identity: which table, and which of its rows."""
    return hashlib.sha256(f"delta {identity} {batch_id}".encode()).hexdigest()


def _time(entry: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)


def _plain(problem: Exception) -> str:
    return " ".join(_COLOURS.sub("", str(problem)).split())[:300]


def _not_appended(batch: Batch, found: str) -> BatchCorrupt:
    return BatchCorrupt(
        f"The batch {batch.stream}/{batch.batch_id} cannot be read from its table",
        found=found,
        expected="the rows its versions appended",
        remedy="Append the rows again; this batch is passed over.",
    )


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Turn the store's errors inside into ours.

    Raises:
        BatchCorrupt: a file that a version needs is gone.
        LandingUnreachable: the store does not answer.
    """
    try:
        yield
    except FileNotFoundError as problem:
        raise BatchCorrupt(
            f"A file of {address} is gone",
            found=_plain(problem),
            expected="the files of every version that has not been learned",
            remedy="Keep them longer than a batch may wait (VACUUM's retention), and append the "
            "lost rows again.",
        ) from problem
    except OSError as problem:
        if problem.errno is not None:
            raise  # this machine's own disk
        raise LandingUnreachable(
            f"{address} cannot be read",
            found=_plain(problem),
            remedy="See that the store runs, and that AWS_ENDPOINT_URL, AWS_REGION and the "
            "credentials are right; the batches stay pending.",
        ) from problem
