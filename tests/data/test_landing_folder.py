from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from bhpeft.data import arrival
from bhpeft.data.batch import MANIFEST, open_batch
from bhpeft.data.landing_folder import Folder
from bhpeft.errors import BatchCorrupt
from tests.data.conftest import Lander
from tests.data.tickets import tickets


def test_a_manifest_waits_for_its_files_for_an_hour(
    lander: Lander, landing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy keeps no order; after an hour a missing file is not late but wrong."""
    batch = lander(tickets())
    place = Folder(landing, "tickets")
    assert place.landed({}) == [batch]
    part = batch.paths[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:100])
    assert place.landed({}) == []
    part.unlink()
    assert place.landed({}) == []
    monkeypatch.setattr(arrival, "SETTLING", timedelta(0))
    assert place.landed({}) == [batch]


def test_a_manifest_from_the_future_does_not_wait_for_ever(lander: Lander, landing: Path) -> None:
    """A clock that is wrong must not hide a batch."""
    batch = lander(tickets())
    batch.paths[0].unlink()
    later = (batch.folder / MANIFEST).stat().st_mtime + 90_000
    os.utime(batch.folder / MANIFEST, (later, later))
    assert Folder(landing, "tickets").landed({}) == [batch]


def test_what_is_settled_has_not_landed_and_still_counts_as_the_newest(
    lander: Lander, landing: Path
) -> None:
    batch = lander(tickets())
    place = Folder(landing, "tickets")
    assert place.landed({batch.digest: "b1"}) == []
    assert place.newest() == batch.manifest.landed_at
    assert place.holding(batch.digest) == batch
    assert Folder(landing, "nothing").newest() is None


def link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("put", [link, pipe])
@pytest.mark.parametrize("which", ["part", "manifest"])
def test_a_link_or_a_pipe_in_a_batch_is_refused_and_never_followed(
    lander: Lander, tmp_path: Path, put: Callable[[Path, Path], None], which: str
) -> None:
    """A link can name any file of the machine that learns; a pipe can make it wait for ever."""
    batch = lander(tickets())
    path = batch.paths[0] if which == "part" else batch.folder / MANIFEST
    outside = tmp_path / "outside"
    path.rename(outside)
    put(path, outside)
    with pytest.raises(BatchCorrupt, match="a link or a device"):
        open_batch(batch.folder)
