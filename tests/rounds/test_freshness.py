from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bhpeft.data.batch import MANIFEST
from bhpeft.errors import StreamFileError
from bhpeft.registry import Book
from bhpeft.rounds.freshness import alarm, silence
from bhpeft.rounds.overview import glance
from bhpeft.stream import read_stream
from tests.rounds.conftest import Chain

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def daily(chain: Chain) -> Chain:
    """One batch, landed on a known day."""
    batch = chain.deliver("b1")
    manifest = json.loads((batch.folder / MANIFEST).read_text())
    manifest["landed_at"] = (NOW - timedelta(hours=25)).isoformat()
    (batch.folder / MANIFEST).write_text(json.dumps(manifest))
    return chain.changed(data=chain.stream.data.model_copy(update={"expect_every": "1d"}))


def test_a_batch_that_is_overdue_is_said_once_for_each_period(daily: Chain) -> None:
    """A watch looks every minute; a person is told once a day, until a batch comes."""
    told = [alarm(daily.stream, NOW + timedelta(hours=hours)) for hours in range(0, 48, 6)]
    assert [found is not None for found in told] == [True] + [False] * 3 + [True] + [False] * 3
    assert told[0] is not None
    assert told[0].message.endswith(
        "no batch since 2026-03-09 11:00 UTC; one is expected every 1 day, 0:00:00"
    )
    assert alarm(daily.stream, NOW - timedelta(hours=2)) is None
    assert alarm(daily.stream, NOW) is not None, "after a batch had come it is new again"


def test_status_says_it_and_a_stream_that_expects_nothing_is_never_stale(daily: Chain) -> None:
    book = Book(daily.stream.name, {}, [])
    assert "no batch since" in str(glance(daily.stream, book).stale)
    unasked = daily.changed(data=daily.stream.data.model_copy(update={"expect_every": ""}))
    assert glance(unasked.stream, book).stale is None
    assert silence(unasked.stream, NOW + timedelta(days=999)) is None


def test_a_stream_in_which_nothing_ever_landed_is_overdue(chain: Chain) -> None:
    data = chain.stream.data.model_copy(update={"expect_every": "2h"})
    found = silence(chain.changed(data=data).stream)
    assert found is not None
    assert "no batch has landed yet" in found.message


def test_a_rhythm_nobody_understands_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[data]\ncontract = "c"\nexpect_every = "daily"\n[model]\nbase = "x"\n')
    with pytest.raises(StreamFileError, match="'daily' is not an interval"):
        read_stream(path, tmp_path)
