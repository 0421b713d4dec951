"""Keep a copy of a batch on this machine while it is learned: fetched once, verified every time.

    <cache>/staged/<digest>/<stream>/<batch_id>/

What is staged can be fetched again, so it goes after a week in which nobody asked for it.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bhpeft.data.batch import MANIFEST, Batch, Manifest, open_batch, verify_files
from bhpeft.errors import BatchError, LandingError

KEPT_SECONDS = 7 * 24 * 3600.0

# Writes a batch's files into a folder and returns the manifest they have.
Fetch = Callable[[Path], Manifest]


def staged(batch: Batch, fetch: Fetch) -> Batch:
    """Return the batch with its files at `batch.folder`, fetched unless they are there and whole.

    Raises:
        BatchCorrupt: what was fetched is not what the manifest says.
        LandingError: this disk cannot hold it.
    """
    try:
        found = _found(batch)
        if found is None:
            _fetched(batch, fetch)
            found = replace(open_batch(batch.folder), digest=batch.digest, origin=batch.origin)
        os.utime(batch.folder)
        _forget_old(batch.folder.parents[2])
        return found
    except OSError as problem:
        raise LandingError(
            f"The batch {batch.stream}/{batch.batch_id} could not be fetched to {batch.folder}",
            found=problem.strerror or str(problem),
            expected="room and permission to keep it while it is learned",
            remedy="Free space or mend the folder; the batch stays pending.",
        ) from problem


def staging_folder(cache: Path, digest: str, stream: str, batch_id: str) -> Path:
    """Return where a batch of this content is staged."""
    return cache / "staged" / digest[:16] / stream / batch_id


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds all of it or none."""
    hidden = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    hidden.write_bytes(content)
    os.replace(hidden, path)


def _found(batch: Batch) -> Batch | None:
    if not (batch.folder / MANIFEST).exists():
        return None
    try:
        found = replace(
            open_batch(batch.folder, verify=False), digest=batch.digest, origin=batch.origin
        )
        verify_files(found)
    except BatchError:
        shutil.rmtree(batch.folder)  # half of it was lost; the store has the whole
        return None
    return found


def _fetched(batch: Batch, fetch: Fetch) -> None:
    hidden = batch.folder.parent / f".fetching-{uuid.uuid4().hex}"
    try:
        hidden.mkdir(parents=True)
        manifest = fetch(hidden)
        (hidden / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
        shutil.rmtree(batch.folder, ignore_errors=True)
        os.replace(hidden, batch.folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _forget_old(folder: Path) -> None:
    """Remove staged content that nobody has asked for in `KEPT_SECONDS`."""
    for content in folder.iterdir():
        used = max((path.stat().st_mtime for path in content.glob("*/*")), default=0.0)
        if time.time() - used > KEPT_SECONDS:
            shutil.rmtree(content, ignore_errors=True)
