"""What killed processes left on the disk goes a week later; nothing that is in use does."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from bhpeft.rounds.leftovers import leftovers, sweep
from tests.rounds.conftest import Chain


def left(folder: Path, name: str, days: float) -> Path:
    path = folder / name / "part.parquet"
    path.parent.mkdir(parents=True)
    path.write_text("half of it")
    for one in (path, path.parent):
        os.utime(one, (time.time() - days * 86400,) * 2)
    return path.parent


def test_what_a_killed_process_left_is_swept_once_it_is_a_week_old(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A landing, a fetch and a round's folder; batches, what is young, and other people's stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    batch = chain.deliver("b1")
    old = [
        left(batch.folder.parent, ".landing-1", 8),
        left(chain.stream.cache / "landed", ".fetching-2", 8),
        left(tmp_path / "tmp", "bhpeft-3", 8),
    ]
    young = left(tmp_path / "tmp", "bhpeft-4", 6)
    others = left(tmp_path / "tmp", "tmp5", 30)
    os.utime(batch.folder, (0, 0))

    found = leftovers(chain.stream)
    assert set(found) == set(old)
    sweep(found)
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in (young, others, batch.folder))
    assert chain.waiting == ["b1"]
