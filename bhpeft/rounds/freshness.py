"""Notice that no batch came in time: a producer that died is silent, and so is a stream without it.

Said once for each period that passes without a batch, and again only when another has passed: a
watch that looks every minute would otherwise say it every minute.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bhpeft.rounds.backlog import landing_of
from bhpeft.stream import Stream

SAID = "stale.json"


@dataclass(frozen=True)
class Silence:
    """How long a stream has been waiting for a batch that was due.

    Attributes:
        stream: the stream's name.
        newest: when its last batch landed; None before the first.
        every: how often one is expected.
        periods: how many have passed since.
    """

    stream: str
    newest: datetime | None
    every: timedelta
    periods: int

    @property
    def message(self) -> str:
        """Return one line for a person."""
        if self.newest is None:
            return f"{self.stream}: no batch has landed yet; one is expected every {self.every}"
        last = f"{self.newest:%Y-%m-%d %H:%M} UTC"
        return f"{self.stream}: no batch since {last}; one is expected every {self.every}"


def silence(stream: Stream, now: datetime | None = None) -> Silence | None:
    """Return how overdue the stream's next batch is; None where none is overdue or expected."""
    every = stream.data.rhythm
    if every is None:
        return None
    newest = landing_of(stream).newest()
    if newest is None:
        return Silence(stream.name, None, every, 1)
    periods = int(((now or datetime.now(UTC)) - newest) / every)
    return Silence(stream.name, newest, every, periods) if periods >= 1 else None


def alarm(stream: Stream, now: datetime | None = None) -> Silence | None:
    """Return what is to be said about an overdue batch; None where it has been said already."""
    found, path = silence(stream, now), stream.cache / SAID
    if found is None:
        path.unlink(missing_ok=True)
        return None
    saying = [str(found.newest), found.periods]
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) == saying:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(saying), encoding="utf-8")
    return found
