"""What the registry remembers, as plain values: versions, moves of the champion, streams.

MLflow keeps tags as text; this file is the one place that knows how a fact is written into a tag
and read back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

from bhpeft.secrecy import without_secrets

PREFIX = "bhpeft."

STREAM, POPULATION = "stream", "population"
"""What a registered model holds: the posteriors of a stream, or what a group has in common."""

CHAMPION = "champion"
CANDIDATE = "candidate"
PREVIOUS = "previous"

PROMOTED = "promoted"
REFUSED = "refused"
HELD = "held"
STALE = "stale"
"""The gates said promote, but the champion moved first: the batch is pending again."""
SUPERSEDED = "superseded"
"""It waited for a person and a newer batch came: its batch is pending again."""
DECISIONS = (PROMOTED, REFUSED, HELD, STALE, SUPERSEDED)

# A run's tag holds 8000 characters and MLflow cuts what is longer without a word; 100 digests of
# 64 hexadecimal digits with their quotes are 6800.
_DIGESTS_A_TAG = 100


@dataclass(frozen=True)
class Version:
    """One registered posterior of a stream.

    Attributes:
        stream: the stream, which is also the registered model's name.
        number: the version number, counted from 1.
        parent: the version whose posterior was the prior; None at the chain's root.
        batches: fingerprints of the batches this version's own round learned.
        batch_ids: their names, in the same order.
        decision: "promoted", "refused", "held", "stale" or "superseded".
        run_id: the MLflow run of the round.
        created: when it was registered (UTC).
        tags: every tag, under its full name.
        aliases: "champion", "candidate", "previous".
        description: the Markdown a reviewer reads.
    """

    stream: str
    number: int
    parent: int | None
    batches: tuple[str, ...]
    batch_ids: tuple[str, ...]
    decision: str
    run_id: str
    created: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    description: str = ""

    @property
    def checksums(self) -> dict[str, str]:
        """Return file name → SHA-256 of the state folder that was registered."""
        found: dict[str, str] = json.loads(self.tags.get(PREFIX + "sha256", "{}"))
        return found

    @property
    def has_files(self) -> bool:
        """Whether its posterior is still stored, or `bhpeft gc` has removed it."""
        return self.tags.get(PREFIX + "files") != "removed"

    def __str__(self) -> str:
        return f"{self.stream} v{self.number}"


@dataclass(frozen=True)
class Move:
    """One entry of a stream's promotion log; written once and never changed.

    Attributes:
        kind: "promote", "roll_back", "refuse", "hold", "supersede", "release", "gc" or
            "repair".
        stream: the stream.
        when: UTC; strictly increasing along one stream's log.
        who: the person or the process that decided.
        from_version: the champion before.
        to_version: the champion after; for "refuse", "hold" and "supersede" the version decided
            about.
        why: one line.
        refused_batches: fingerprints that this move takes out of what is pending.
        released_batches: fingerprints that this move makes pending again; by "roll_back" in the
            order they were learned in.
    """

    kind: str
    stream: str
    when: datetime
    who: str
    from_version: int | None
    to_version: int | None
    why: str
    refused_batches: tuple[str, ...] = ()
    released_batches: tuple[str, ...] = ()

    @property
    def moves_champion(self) -> bool:
        """Whether the champion alias follows `to_version`."""
        return self.kind in ("promote", "roll_back", "repair")

    @property
    def title(self) -> str:
        """Name the move as the log shows it."""
        before = "none" if self.from_version is None else f"v{self.from_version}"
        if self.moves_champion:
            return f"{self.kind} {before} → v{self.to_version}"
        if self.kind == "gc":
            return "gc"
        if self.to_version is None:
            return f"{self.kind} {len(self.released_batches)} batch(es)"
        return f"{self.kind} v{self.to_version}"


@dataclass(frozen=True)
class Failure:
    """A round that ended without a decision for a reason that lies in the batch or its training.

    Attributes:
        digest: the fingerprint of the batch.
        batch_id: its name.
        kind: the error's name: "Diverged", "OutOfMemory", "TimeLimit", …; "Unexpected" for one
            that bhpeft does not know, "Died" where the process was gone, "Quarantined" where the
            batch broke its contract or could not be read.
        message: the error, in one line.
        when: when the round ended (UTC).
    """

    digest: str
    batch_id: str
    kind: str
    message: str
    when: datetime


DIED, UNEXPECTED, QUARANTINED = "Died", "Unexpected", "Quarantined"


@dataclass(frozen=True)
class Entry:
    """One stream as the registry's front page shows it.

    Attributes:
        stream: the stream.
        champion, previous, candidate: version numbers behind the aliases.
        updated: the last change of the registered model (UTC).
        aliases: every alias with its version number.
    """

    stream: str
    champion: int | None
    previous: int | None
    candidate: int | None
    updated: datetime
    aliases: Mapping[str, int] = field(default_factory=dict)


def population_name(group: str) -> str:
    """Return the registered model of a group's population; no stream's name has a tilde."""
    return f"{POPULATION}~{group}"


def history_command(model: str) -> str:
    """Return what shows the moves of a registered model: a stream's, or a group's population's."""
    mark = population_name("")
    words = f"population history {model.removeprefix(mark)}" if model.startswith(mark) else None
    return f"bhpeft {words or f'history {model}'}"


def utc(milliseconds: int | float) -> datetime:
    """Return the time MLflow wrote as milliseconds since 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def milliseconds(when: datetime) -> int:
    """Return a time as MLflow writes it."""
    return round(when.timestamp() * 1000)


def prefixed(facts: Mapping[str, object]) -> dict[str, str]:
    """Return facts as tags: `kl_weight` becomes `bhpeft.kl_weight`; a dotted name is kept.

    A mapping or a list is written as JSON, None as nothing.
    """
    return {key if "." in key else PREFIX + key: _text(value) for key, value in facts.items()}


def digests_as_tags(name: str, digests: Sequence[str]) -> dict[str, str]:
    """Spread fingerprints over as many tags as they need: `name.0` and so on."""
    pieces = range(0, len(digests), _DIGESTS_A_TAG)
    return {
        f"{PREFIX}{name}.{number}": json.dumps(digests[start : start + _DIGESTS_A_TAG])
        for number, start in enumerate(pieces)
    }


def digests_from_tags(name: str, tags: Mapping[str, str]) -> tuple[str, ...]:
    """Gather what `digests_as_tags` spread."""
    found: list[str] = []
    for number in count():
        piece = tags.get(f"{PREFIX}{name}.{number}")
        if piece is None:
            break
        found += json.loads(piece)
    return tuple(found)


def number_of(text: str | int | None) -> int | None:
    """Return a version number however MLflow spells it: "2" over REST, 2 from a database."""
    return int(text) if text else None


def aliases_of(number: int, aliases: Mapping[str, str | int]) -> tuple[str, ...]:
    """Return the aliases that point at one version, in alphabetical order."""
    return tuple(sorted(name for name, at in aliases.items() if int(at) == number))


def one_line(error: BaseException, limit: int = 500) -> str:
    """Return an error as one line for a tag."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return without_secrets(text)[:limit]


def unique(items: Iterable[str]) -> tuple[str, ...]:
    """Return the items once each, in order."""
    return tuple(dict.fromkeys(items))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
