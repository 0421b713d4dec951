"""Where batches land: a folder, an S3-compatible bucket, or a Delta table, behind one interface.

| `[data]` in the stream file | a batch is |
|---|---|
| `landing = "folder"` | `folder/<stream>/<batch_id>/` with its manifest |
| `landing = "s3://bucket/prefix"` | the same, as objects |
| `delta = "path"` or `"s3://…"` | rows appended since the champion's chain last looked |

None of them remembers what has been learned: they are told (`settled`), because only the registry
knows, and a rollback changes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from bhpeft.data.batch import Batch, Manifest, Unreadable
from bhpeft.data.contract import Contract
from bhpeft.data.landing_bucket import Bucket
from bhpeft.data.landing_folder import Folder
from bhpeft.data.landing_table import Table
from bhpeft.data.spans import NO_PAST, Past
from bhpeft.errors import LandingError, did_you_mean

# Digest → batch id of whatever was learned, refused, held or quarantined.
Settled = Mapping[str, str]


class Landing(Protocol):
    """Where the batches of one stream land.

    Raises:
        LandingUnreachable: from every method, when the store does not answer.
        LandingError: it is there, but cannot be used.
    """

    @property
    def desk(self) -> Path:
        """Return the local folder where a batch is made ready to be published."""

    def landed(self, settled: Settled, past: Past = NO_PAST) -> list[Batch]:
        """Return the batches that are complete and not settled, in the order to learn them.

        Where it is the landing that makes batches of rows, `past` says which it has made before:
        they are the same again, on whatever machine.
        """

    def unreadable(self) -> list[Unreadable]:
        """Return what landed and is no batch; it hides no other."""

    def newest(self) -> datetime | None:
        """Return when the last batch landed, settled or not; None before the first."""

    def holding(self, digest: str, batch_id: str | None = None) -> Batch | None:
        """Return the batch of this content, if it has landed.

        A landing that cannot look for content alone (a table) finds what its id names.
        """

    def staged(self, batch: Batch, contract: Contract) -> Batch:
        """Return the batch with its files on this machine, fetched once and verified."""

    def publish(self, folder: Path, batch_id: str, manifest: Manifest) -> Batch:
        """Make a prepared folder the batch of that id; the manifest last, and only once."""


@dataclass(frozen=True)
class Place:
    """Say where a stream's batches land, as its file has it.

    Attributes:
        location: a folder, `s3://bucket/prefix`, or `delta:` and a table's folder or address.
        stream: the stream's name.
        cache: a local folder for what can be fetched again.
        table_rows: most rows of a batch cut from a table.
        table_from: the table's first version whose rows are learned.
    """

    location: str
    stream: str
    cache: Path
    table_rows: int = 50_000
    table_from: int = 0


LANDINGS: dict[str, Callable[[Place], Landing]] = {
    "": lambda place: Folder(Path(place.location), place.stream),
    "s3": lambda place: Bucket(place.location, place.stream, place.cache),
    "delta": lambda place: Table(
        place.location.removeprefix("delta:"),
        place.stream,
        place.cache,
        place.table_rows,
        place.table_from,
    ),
}

# A drive's letter is no scheme.
_SCHEME = re.compile(r"([a-z][a-z0-9+]+):")


def landing_at(place: Place) -> Landing:
    """Return the landing that a place's location asks for.

    Raises:
        LandingError: nobody knows its scheme.
    """
    found = _SCHEME.match(place.location)
    scheme = found[1] if found else ""
    if scheme not in LANDINGS:
        known = [f"{name}://" for name in LANDINGS if name not in ("", "delta")]
        raise LandingError(
            "Nothing can land there",
            found=f"an address that begins with {scheme}:",
            expected=f"a folder or {' or '.join(known)}",
            remedy=did_you_mean(scheme, [name for name in LANDINGS if name]),
        )
    return LANDINGS[scheme](place)
