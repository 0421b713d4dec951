"""Tell a batch that has arrived from one that is on its way.

A producer writes the manifest last, but a copy of what it wrote need not keep that order: rsync, a
replicated bucket, a second mount. A manifest whose files are missing or still short therefore
waits. After an hour it is no longer late but wrong, and is handed on, for the round to say what is
missing and to put it in quarantine.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from bhpeft.data.batch import Manifest

SETTLING = timedelta(hours=1)


def has_arrived(manifest: Manifest, sizes: Mapping[str, int], written: datetime) -> bool:
    """Say whether a batch is to be learned, or refused, now.

    Args:
        manifest: the batch's manifest.
        sizes: bytes of each file that is there.
        written: when the manifest was written, by the clock of where it lies.
    """
    whole = all(sizes.get(part.name, -1) >= part.size for part in manifest.files)
    # A manifest from the future is a clock that is wrong, and must not wait for ever.
    return whole or abs(datetime.now(UTC) - written) > SETTLING


def landed_at(manifest: Manifest, written: datetime) -> datetime:
    """Return when a batch landed: as its manifest says, else when the manifest was written."""
    return manifest.landed_at or written
