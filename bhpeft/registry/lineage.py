"""What a chain has learned, read from the registry's own facts; no MLflow in here.

A batch counts once per chain: learning it twice shrinks σ to 0.71 of the honest value. What is
pending is therefore never remembered by a scheduler but derived,

    pending = landed − learned by the champion's ancestors − refused − quarantined,

so that a rollback changes what is pending with no second book to keep in step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bhpeft.errors import RegistryError, UnknownVersion
from bhpeft.registry.records import (
    CHAMPION,
    HELD,
    PROMOTED,
    REFUSED,
    Move,
    Version,
    history_command,
)


def find(versions: Mapping[int, Version], stream: str, number: int) -> Version:
    """Return one version.

    Raises:
        UnknownVersion: there is none of that number; lists the known ones.
    """
    if number in versions:
        return versions[number]
    known = ", ".join(f"v{n}" for n in sorted(versions)) or "no version yet"
    raise UnknownVersion(
        f"Stream {stream!r} has no version {number}",
        expected=known,
        remedy=f"See them with `{history_command(stream)}`.",
    )


def champion(versions: Mapping[int, Version]) -> int | None:
    """Return the number of the version in use."""
    return next((number for number, v in versions.items() if CHAMPION in v.aliases), None)


def chain(versions: Mapping[int, Version], stream: str, number: int | None) -> list[Version]:
    """Return the version and its ancestors, from `number` to the root; [] for None.

    Raises:
        UnknownVersion: `number` is not known.
        RegistryError: an ancestor was deleted, so what the chain learned is not known any more.
    """
    links: list[Version] = []
    while number is not None:
        if links and (number not in versions or number >= links[-1].number):
            raise RegistryError(
                f"The chain of {stream} v{links[0].number} is broken",
                found=f"no v{number}, the parent of v{links[-1].number}",
                expected="every ancestor of a version in the registry",
                remedy="An ancestor's entry must never be deleted. Roll back to a version whose "
                f"chain is whole: `bhpeft rollback {stream} --to …`.",
            )
        links.append(find(versions, stream, number))
        number = links[-1].parent
    return links


def learned(versions: Mapping[int, Version], stream: str, number: int | None) -> frozenset[str]:
    """Return the fingerprints of all batches the version's chain has learned."""
    links = chain(versions, stream, number)
    return frozenset(digest for link in links for digest in link.batches)


def refused(versions: Iterable[Version], moves: Sequence[Move]) -> frozenset[str]:
    """Return the fingerprints of batches not to be tried again.

    They were refused by the gates, by a person, or left behind by a rollback; a later release
    takes them out again. What the log says of a version comes in the log's order; its creation,
    by the server's clock, only counts where the log does not know of it.
    """
    nothing: tuple[str, ...] = ()
    said = {m.to_version for m in moves if m.kind == "refuse"}
    silent = [v for v in versions if v.decision == REFUSED and v.number not in said]
    events = [(v.created, v.batches, nothing) for v in silent]
    events += [(m.when, m.refused_batches, m.released_batches) for m in moves]
    found: set[str] = set()
    for _, added, released in sorted(events, key=lambda event: event[0]):
        found |= set(added)
        found -= set(released)
    return frozenset(found)


def held(versions: Iterable[Version], champion: int | None) -> list[Version]:
    """Return the candidates that wait for a person and still continue the champion."""
    return [v for v in versions if v.decision == HELD and v.parent == champion]


def attempt(
    versions: Mapping[int, Version], moves: Sequence[Move], parent: int | None, digest: str
) -> Version | None:
    """Return what an earlier attempt of the same round registered, to be taken up again.

    Not what has been champion since, nor what was refused and then released: such a batch is to
    be learned anew.
    """
    been = champions(moves)
    settled = refused(versions.values(), moves)
    found = [
        v
        for v in versions.values()
        if v.parent == parent and digest in v.batches and v.number not in been
        if v.decision in (PROMOTED, HELD) or (v.decision == REFUSED and digest in settled)
    ]
    return max(found, key=lambda v: v.number, default=None)


def champions(moves: Iterable[Move]) -> frozenset[int]:
    """Return every version that has ever been champion."""
    return frozenset(
        number
        for move in moves
        if move.moves_champion
        for number in (move.from_version, move.to_version)
        if number is not None
    )


def last_move(moves: Sequence[Move]) -> Move | None:
    """Return the newest move of the champion; where it ended is where the alias belongs."""
    return next((move for move in reversed(moves) if move.moves_champion), None)


def never_logged(
    versions: Mapping[int, Version], moves: Sequence[Move], champion: int | None
) -> list[Version]:
    """Return refused and held versions that the log does not know, oldest first.

    Their round died between the entry and the log. Only those whose decision still counts.
    """
    said = {(move.kind, move.to_version) for move in moves}
    gone = refused(versions.values(), moves)
    out = [v for v in versions.values() if v.decision == REFUSED and gone & set(v.batches)]
    silent = [v for v in out if ("refuse", v.number) not in said]
    silent += [v for v in held(versions.values(), champion) if ("hold", v.number) not in said]
    return sorted(silent, key=lambda v: v.number)


def never_moved(versions: Iterable[Version], moves: Sequence[Move]) -> list[Version]:
    """Return versions the gates promoted whose promotion never happened, oldest first."""
    been = champions(moves)
    waiting = [v for v in versions if v.decision == PROMOTED and v.number not in been]
    return sorted(waiting, key=lambda v: v.number)
