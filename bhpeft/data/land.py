"""Land a file as a batch: all of it or nothing, at once.

Everything is written into a hidden folder, flushed to the disk, the manifest last, and then
renamed; in a bucket the manifest comes last too. Whoever looks sees no batch or a whole one,
whenever the power fails.
Parquet is copied byte by byte, so that its digest is the producer's own; CSV and JSON lines are
converted to Parquet in the contract's types. Memory holds one block of rows.
"""

from __future__ import annotations

import errno
import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bhpeft.data.batch import Batch, Manifest, Part, digest_of, file_sha256, safe_name
from bhpeft.data.check import check
from bhpeft.data.contract import Contract
from bhpeft.data.landing_folder import Folder, flush
from bhpeft.data.landings import Landing
from bhpeft.data.sources import SOURCES, Reader
from bhpeft.errors import BatchCorrupt, BatchEmpty, BatchError, did_you_mean

logger = logging.getLogger(__name__)


def land(
    source: Path | str,
    landing: Landing | Path | str,
    contract: Contract,
    stream: str,
    batch_id: str | None = None,
    event_time: datetime | None = None,
    validate: bool = True,
) -> Batch:
    """Land a file as a batch, in a folder `landing/<stream>/<batch_id>` or in a bucket.

    Content that has landed before is not landed again: the batch it is in is returned, whatever
    its id.

    Args:
        source: a Parquet, CSV or JSON-lines file, or a folder of Parquet files.
        landing: where the stream's batches land, or the landing folder of all streams.
        contract: the stream's contract.
        stream: the stream's name, a folder's name.
        batch_id: a folder's name; by default the event time and the digest's first digits.
        event_time: when the data happened; by default the newest value of the contract's
            event-time column, else now. Without a zone it is UTC.
        validate: judge the batch first. Without it a bad batch lands, for the round to quarantine.

    Raises:
        ContractViolation, BatchEmpty: the data breaks its contract; nothing was landed.
        BatchCorrupt: the source cannot be read; nothing was landed.
        BatchError: the id is unsafe or taken, or the disk is full; nothing was landed.
        LandingError: the store does not answer; nothing was landed.
    """
    source, place = Path(source), _place(landing, _named(stream, "stream"))
    if batch_id is not None:
        _named(batch_id, "batch id")
    with _hidden_folder(place.desk) as folder:
        parts = _write_parts(source, folder, contract)
        digest = digest_of([part.sha256 for part in parts])
        if (earlier := place.holding(digest)) is not None:
            logger.info("this content has landed already as %s/%s", stream, earlier.batch_id)
            return earlier
        manifest = Manifest(
            files=tuple(parts),
            rows=sum(part.rows for part in parts),
            contract=contract.name,
            contract_version=contract.version,
            event_time=_aware(event_time or _newest(folder, parts, contract)),
            landed_at=datetime.now(UTC),
        )
        name = batch_id or f"{manifest.event_time.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:8]}"
        if validate:
            check(Batch(stream, name, folder, manifest, digest), contract)
        return _publish(place, folder, name, manifest)


def _place(landing: Landing | Path | str, stream: str) -> Landing:
    return Folder(Path(landing), stream) if isinstance(landing, Path | str) else landing


@contextmanager
def _hidden_folder(parent: Path) -> Iterator[Path]:
    """Give a folder nobody looks at, and remove whatever is left of it, come what may."""
    folder = parent / f".landing-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as problem:
        raise _cannot_write(parent, problem) from problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_parts(source: Path, folder: Path, contract: Contract) -> list[Part]:
    if source.is_dir():
        files = sorted(p for p in source.glob("*.parquet") if not p.name.startswith(("_", ".")))
        if not files:
            raise _unusable(source, "a folder without *.parquet files")
        return [_copied(path, folder / _part_name(i)) for i, path in enumerate(files)]
    if not source.is_file():
        raise _unusable(source, "no such file")
    target = folder / _part_name(0)
    if source.suffix.lower() == ".parquet":
        return [_copied(source, target)]
    reader = SOURCES.get(source.suffix.lower())
    if reader is None:
        hint = did_you_mean(source.suffix, (".parquet", *SOURCES))
        raise _unusable(source, f"the suffix {source.suffix!r}. {hint}")
    return [_converted(reader, source, target, contract)]


def _part_name(position: int) -> str:
    return f"part-{position:05d}.parquet"


def _copied(source: Path, target: Path) -> Part:
    try:
        with pq.ParquetFile(source) as parquet:
            rows = parquet.metadata.num_rows
    except pa.ArrowException as problem:
        raise BatchCorrupt(
            f"{source} cannot be read",
            found=" ".join(str(problem).split())[:300],
            expected="a whole Parquet file",
            remedy="Write or copy it again; it looks truncated.",
        ) from problem
    shutil.copyfile(source, target)
    flush(target)
    return _part(target, rows)


def _converted(reader: Reader, source: Path, target: Path, contract: Contract) -> Part:
    rows, writer = 0, None
    try:
        for batch in reader(source, contract):
            # Without the inferred types' metadata the file depends on its rows alone.
            writer = writer or pq.ParquetWriter(target, batch.schema.remove_metadata())
            writer.write_batch(batch)
            rows += batch.num_rows
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise BatchEmpty(f"{source} is empty", found="0 rows", expected="at least one")
    flush(target)
    return _part(target, rows)


def _part(path: Path, rows: int) -> Part:
    return Part(name=path.name, size=path.stat().st_size, sha256=file_sha256(path), rows=rows)


def _newest(folder: Path, parts: list[Part], contract: Contract) -> datetime:
    """Return the newest event time of the rows, or now when there is none to be found."""
    newest: list[datetime] = []
    for part in parts:
        with pq.ParquetFile(folder / part.name, pre_buffer=False) as parquet:
            if contract.event_time not in parquet.schema_arrow.names:
                continue
            for rows in parquet.iter_batches(columns=[contract.event_time]):
                if pa.types.is_timestamp(rows.schema.types[0]):
                    times = rows.column(0).cast(pa.timestamp("us", tz="UTC"), safe=False)
                    newest.append(pc.max(times).as_py())
    return max((time for time in newest if time is not None), default=datetime.now(UTC))


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _publish(place: Landing, folder: Path, name: str, manifest: Manifest) -> Batch:
    return place.publish(folder, name, manifest)


def _named(name: str, what: str) -> str:
    try:
        return safe_name(name)
    except ValueError as problem:
        raise BatchError(
            f"This {what} cannot be a folder's name",
            found=str(problem),
            expected="for example 2026-01-07",
            remedy="Choose another.",
        ) from problem


def _unusable(source: Path, found: str) -> BatchError:
    return BatchError(
        f"{source} cannot be landed",
        found=found,
        expected=f"a .parquet, {', '.join(SOURCES)} file, or a folder of .parquet files",
        remedy="Correct the path or convert the file.",
    )


def _cannot_write(parent: Path, problem: OSError) -> BatchError:
    full = problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return BatchError(
        f"Nothing was landed in {parent}",
        found=f"{problem.strerror or problem}",
        expected="room and permission to write the batch",
        remedy="Free space and land it again." if full else "Mend the folder and land it again.",
    )
