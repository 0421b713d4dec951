"""What a move of the champion is checked against, and what is said when it may not be made."""

from __future__ import annotations

from bhpeft.errors import RegistryError, StaleParent
from bhpeft.registry import lineage
from bhpeft.registry.records import Move, Version, history_command


class Overtaken(Exception):
    """A move whose log entry was settled by another process while this one was making it."""

    def __init__(self, move: Move, version: Version, run_id: str):
        super().__init__(f"{move.title} was settled by another process")
        self.move, self.version, self.run_id = move, version, run_id


def is_return(move: Move, to: int) -> bool:
    """Say whether a move is the rollback to a version, so that asking twice adds nothing."""
    return (move.kind, move.to_version) == ("roll_back", to)


def stale(version: Version, champion: int | None, expected: int | None) -> StaleParent:
    """Return the error for a candidate whose parent is not the champion any more."""
    return StaleParent(
        f"The champion of {version.stream!r} moved while {version} was being made",
        found="no champion" if champion is None else f"champion v{champion}",
        expected="no champion" if expected is None else f"v{expected}",
        remedy="Its batch is pending again; the next round starts from the new champion.",
    )


def crossed(move: Move, others: list[Move]) -> StaleParent:
    """Return the error for two moves made at the same moment; this one lets go."""
    return StaleParent(
        f"Another move of the champion of {move.stream!r} is being made",
        found="; ".join(f"«{other.title}» by {other.who}" for other in others),
        expected="one move at a time",
        remedy="Nothing was moved. Run it again; whatever was left half done is finished first.",
    )


def not_promotable(version: Version) -> RegistryError:
    """Return the error for a candidate put aside that somebody wants to promote."""
    return RegistryError(
        f"{version} was {version.decision} and cannot be promoted",
        found=f"decision {version.decision!r}",
        expected="'promoted' or 'held'",
        remedy="A refused candidate never becomes a prior. To overrule the gates, promote it "
        "explicitly with despite_refusal and a reason.",
    )


def check_target(
    version: Version, champion: int | None, versions: dict[int, Version], moves: list[Move]
) -> None:
    """Accept only versions that have been champion.

    Raises:
        RegistryError: it is the champion already, or never was champion.
    """
    if champion == version.number:
        raise RegistryError(
            f"{version} is the champion already",
            expected="another version that has been champion",
            remedy=f"See them with `{history_command(version.stream)}`.",
        )
    been = lineage.champions(moves)
    if champion in versions:
        been |= {v.number for v in lineage.chain(versions, version.stream, champion)}
    known = sorted(n for n in been & set(versions) - {champion} if versions[n].has_files)
    if version.number not in known:
        raise RegistryError(
            f"{version} has never been champion"
            if version.has_files
            else f"The files of {version} were removed",
            found=f"decision {version.decision!r}",
            expected=f"one of {', '.join(f'v{n}' for n in known) or 'none yet'}",
            remedy=f"Choose a version from `{history_command(version.stream)}`.",
        )
