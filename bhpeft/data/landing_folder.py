"""Batches in a folder of this machine, or one mounted on it: `<root>/<stream>/<batch_id>/`."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bhpeft.data.arrival import has_arrived, landed_at
from bhpeft.data.batch import (
    MANIFEST,
    Batch,
    Manifest,
    Unreadable,
    folder_digest,
    landed,
    open_batch,
    unreadable,
)
from bhpeft.data.contract import Contract
from bhpeft.data.spans import NO_PAST, Past
from bhpeft.errors import BatchError


@dataclass(frozen=True)
class Folder:
    """A `Landing` in a folder.

    Attributes:
        root: the landing folder of all streams.
        stream: the stream's name.
    """

    root: Path
    stream: str

    @property
    def desk(self) -> Path:
        """Return the stream's folder itself: only inside one disk can a batch appear at once."""
        return self.root / self.stream

    def landed(self, settled: Mapping[str, str], past: Past = NO_PAST) -> list[Batch]:
        """Return what waits, oldest first by event time, then by id."""
        waiting = [b for b in landed(self.root, self.stream) if b.digest not in settled]
        return [b for b in waiting if has_arrived(b.manifest, _sizes(b.folder), _written(b.folder))]

    def unreadable(self) -> list[Unreadable]:
        """Return folders whose manifest or name is wrong."""
        return [
            Unreadable(self.stream, folder.name, str(folder), folder_digest(folder), error)
            for folder, error in unreadable(self.root, self.stream)
        ]

    def newest(self) -> datetime | None:
        """Return when the last batch landed."""
        batches = landed(self.root, self.stream)
        return max((landed_at(b.manifest, _written(b.folder)) for b in batches), default=None)

    def holding(self, digest: str, batch_id: str | None = None) -> Batch | None:
        """Return the batch of this content, whatever its id."""
        batches = landed(self.root, self.stream)
        return next((batch for batch in batches if batch.digest == digest), None)

    def staged(self, batch: Batch, contract: Contract) -> Batch:
        """Return the batch as it is: its files are here."""
        return batch

    def publish(self, folder: Path, batch_id: str, manifest: Manifest) -> Batch:
        """Rename a folder on the desk to its batch id, everything in it on the disk first.

        Raises:
            BatchError: the id is taken.
        """
        (folder / MANIFEST).write_bytes(manifest.model_dump_json(indent=2).encode())
        flush(folder / MANIFEST)
        flush(folder)
        target = self.desk / batch_id
        try:
            os.replace(folder, target)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise taken(batch_id, str(target)) from problem
        flush(target.parent)
        return open_batch(target, verify=False)


def taken(batch_id: str, address: str) -> BatchError:
    """Return the error for an id that has other content already."""
    return BatchError(
        f"The batch id {batch_id!r} is taken",
        found=f"other content in {address}",
        expected="a new batch id",
        remedy="Choose another --batch-id; a landed batch is never changed in place.",
    )


def flush(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sizes(folder: Path) -> dict[str, int]:
    return {entry.name: entry.stat().st_size for entry in os.scandir(folder)}


def _written(folder: Path) -> datetime:
    return datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime, UTC)
