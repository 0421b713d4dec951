"""What processes left behind that were killed while they wrote: hidden folders and half files.

Nobody reads them, each has a name of its own, and the work they belonged to was begun anew, so all
they do is take room. `bhpeft gc` removes those that nothing has touched for a week: younger ones
may belong to a process that lives.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bhpeft.data.landing_folder import Folder
from bhpeft.rounds.backlog import landing_of
from bhpeft.stream import Stream

# Longer than any round may take.
KEPT_SECONDS = 7 * 24 * 3600.0
# Batches on their way into the landing zone or out of it, and files that were to be renamed.
UNFINISHED = (".landing-*", ".fetching-*", "*.partial")
# Working folders of rounds.
TEMPORARY = "bhpeft-*"


def leftovers(stream: Stream) -> list[Path]:
    """Return what was left behind in the stream's landing zone, its cache and for working files."""
    landing, now = landing_of(stream), time.time()
    desks = [landing.desk] if isinstance(landing, Folder) else []
    found = [path for desk in desks for path in desk.glob(UNFINISHED[0])]
    found += [path for name in UNFINISHED for path in stream.cache.rglob(name)]
    found += Path(tempfile.gettempdir()).glob(TEMPORARY)
    return sorted(path for path in set(found) if now - _touched(path) > KEPT_SECONDS)


def sweep(found: list[Path]) -> None:
    """Remove leftovers; one that is gone meanwhile, or is somebody else's, stays as it is."""
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _touched(path: Path) -> float:
    """Return when anything in it was last written."""
    return max(_times(path), default=time.time())


def _times(path: Path) -> Iterator[float]:
    for one in (path, *path.rglob("*")):
        try:
            yield one.lstat().st_mtime
        except FileNotFoundError:
            continue
