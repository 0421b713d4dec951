"""What the streams of a group have in common: the base prior of their rounds, and how it follows.

A population is made of the champions of a group's streams, as the registry knows them, and of
nothing else: a candidate that was refused or waits says nothing to it, and a champion rolled back
takes its word with it. It is therefore never told what happened; whoever looks makes it agree with
the champions there are (`follow`), which is safe to do at any time, by anybody, and again.

    champions of the group  →  next version, its parent the one in use  →  alias, if it still is

A version of a population that was rolled back leaves behind the posteriors that had entered since:
the log keeps them as refused, and of their streams the last ones before them count, until there is
another champion.

A round pins the version it used. A batch that is learned again, in a replay, uses the version it
was first learned with, as long as that is in the chain of the one in use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from bhpeft.data.batch import Batch
from bhpeft.errors import (
    RegistryError,
    StaleParent,
    StateError,
    StreamFileError,
    did_you_mean,
)
from bhpeft.learning.build import gauge_of_model
from bhpeft.learning.population import Member, PopulationState, population_of
from bhpeft.learning.sharing import check_shares, coordinates_of
from bhpeft.learning.state import TENSOR_FILE, AdapterState
from bhpeft.models.adapted import AdaptedModel
from bhpeft.registry import POPULATION, Move, Registry, Version, population_name
from bhpeft.registry.promotion import Lock
from bhpeft.registry.records import PROMOTED
from bhpeft.rounds.spec import variant_of
from bhpeft.stream import Stream, all_streams

# How often an update is tried again when another process moved the population meanwhile.
ATTEMPTS = 5
GAUGE = "bhpeft.coordinates"


@dataclass(frozen=True)
class Pinned:
    """The version of a population that a round uses.

    Attributes:
        group, version: which.
        state: Θ, τ and their coordinates.
    """

    group: str
    version: int
    state: PopulationState

    @property
    def as_fact(self) -> dict[str, object]:
        """Return what a state records of it."""
        return {"group": self.group, "version": self.version, "gauge": self.state.gauge}


def fetch_population(
    stream: Stream,
    registry: Registry,
    batch: Batch,
    folder: Path,
    *,
    by: str = "bhpeft",
    lock: Lock = nullcontext,
) -> Pinned | None:
    """Return the population a round of this batch uses; None where there is none yet.

    What a crash after a promotion left undone is done first.
    """
    group = stream.learning.group
    if not group:
        return None
    follow(group, registry, stream.cache.parent, by=by, lock=lock)
    version = _used(stream, registry, batch)
    if version is None:
        return None
    registry.download(version, folder)
    return Pinned(group, version.number, PopulationState.load(folder))


def check_group(stream: Stream, model: AdaptedModel, pinned: Pinned | None) -> None:
    """Refuse to learn a posterior that the stream's group could not take in; before training.

    Raises:
        StateError: a factor beside Gaussian weights is learned as a point, or the model's frozen
            factors are not the group's.
    """
    if not stream.learning.group:
        return
    check_shares(model, variant_of(stream))
    if pinned is None or pinned.state.gauge == (found := coordinates_of(gauge_of_model(model), {})):
        return
    raise StateError(
        f"The stream {stream.name!r} lives in other coordinates than its group {pinned.group!r}",
        found=f"gauge {found[:12]}",
        expected=f"gauge {pinned.state.gauge[:12]}, of {pinned.group} v{pinned.version}",
        remedy="Give it the base model, revision, layers, methods and learning.seed of the group's "
        "other streams, or another group.",
    )


def follow_champions(
    stream: Stream, registry: Registry, *, by: str, lock: Lock = nullcontext
) -> Version | None:
    """Let the population of a stream's group, if it has one, follow its champions."""
    group = stream.learning.group
    if not group:
        return None
    return follow(group, registry, stream.cache.parent, by=by, lock=lock)


def follow(
    group: str, registry: Registry, desk: Path, *, by: str, lock: Lock = nullcontext
) -> Version | None:
    """Make a group's population agree with the champions of its streams; return the one in use.

    Args:
        group: its name.
        registry: where champions and population are.
        desk: a folder for files fetched on the way.
        by: who asked, for the log.
        lock: makes the context under which only one process moves the population.

    Raises:
        StaleParent: others moved it at each attempt.
        StateError: a champion's files are not those that were registered.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            with lock():
                return _follow(group, registry, desk, by)
        except StaleParent:
            if not left:
                raise
    raise AssertionError("unreachable")


def group_registry(group: str, home: Path | None = None) -> Stream:
    """Return a stream of the group, whose file says where the population is kept.

    Raises:
        StreamFileError: no stream file names the group.
    """
    streams = all_streams(home)
    named = {one.learning.group: one for one in streams if one.learning.group}
    if group in named:
        return named[group]
    raise StreamFileError(
        f"No stream belongs to a group {group!r}",
        found=", ".join(sorted(named)) or "no group at all",
        expected=f'[learning] group = "{group}" in a stream file',
        remedy=did_you_mean(group, named),
    )


def roll_back_population(
    group: str, to: int, registry: Registry, *, by: str, reason: str, lock: Lock = nullcontext
) -> Move:
    """Make an earlier version the base prior again; what entered since does not enter by itself.

    Raises:
        RegistryError: `to` is in use already or never was, or no reason is given.
    """
    return registry.roll_back(population_name(group), to, by=by, reason=reason, lock=lock)


def _follow(group: str, registry: Registry, desk: Path, by: str) -> Version | None:
    name = population_name(group)
    registry.repair(name)
    here = registry.champion(name)
    with tempfile.TemporaryDirectory(prefix="bhpeft-population-", dir=_made(desk)) as folder:
        known = None
        if here is not None:
            registry.download(here, Path(folder, "known"))
            known = PopulationState.load(Path(folder, "known"))
        members = _members(group, registry, known)
        if not members or (known and members == list(known.members)):
            return here
        return _next(registry, name, here, known, members, Path(folder), by)


def _next(
    registry: Registry,
    name: str,
    here: Version | None,
    known: PopulationState | None,
    members: Sequence[Member],
    folder: Path,
    by: str,
) -> Version:
    """Register the population of these members, and move its alias there."""
    states = [(one, _state(registry, one, folder)) for one in members]
    gauge = _gauge(registry, members[0]) if known is None else known.gauge
    made = population_of(states, gauge, known)
    before = set(known.members) if known else set()
    entered = [one for one in members if one not in before] or list(members)
    parent = here.number if here else None
    reason = f"made of {', '.join(map(str, members))}"
    with registry.round_run(
        name, ", ".join(map(str, entered)), digest=entered[0].fingerprint, parent=parent, by=by
    ) as run:
        version = registry.register(
            run,
            made.save(folder / "made"),
            decision=PROMOTED,
            description=_described(made, entered),
            tags={
                "batch_ids": [str(one) for one in entered],
                "batch_digests": [one.fingerprint for one in entered],
                "members": [str(one) for one in members],
                "gauge": gauge,
                "tau": made.known.tau,
            },
            kind=POPULATION,
        )
        run.metrics({f"tau/{block}": value for block, value in made.known.tau.items()})
    registry.promote(name, version.number, expected_parent=parent, by=by, reason=reason)
    return registry.version(name, version.number)


def _members(group: str, registry: Registry, known: PopulationState | None) -> list[Member]:
    """Return the posteriors that the population is to be made of, by their streams' names.

    A champion in other coordinates is left out; the next round of its stream is told so by name.
    """
    champions = registry.in_group(group)
    if not champions:
        return []
    gauge = known.gauge if known else min(champions, key=lambda v: v.created).tags[GAUGE]
    left = registry.refused(population_name(group))
    before = {one.stream: one for one in known.members} if known else {}
    found = []
    for version in champions:
        member: Member | None = _member(version)
        if version.tags.get(GAUGE) != gauge:
            continue
        if member and member.fingerprint in left:
            member = before.get(version.stream)
        if member and (member.version == version.number or _stored(registry, member)):
            found.append(member)
    return found


def _member(version: Version) -> Member:
    return Member(version.stream, version.number, version.checksums[TENSOR_FILE])


def _stored(registry: Registry, member: Member) -> bool:
    """Say whether a posterior's files are still there; an earlier one's may have been removed."""
    return registry.version(member.stream, member.version).has_files


def _gauge(registry: Registry, member: Member) -> str:
    return registry.version(member.stream, member.version).tags[GAUGE]


def _state(registry: Registry, member: Member, folder: Path) -> AdapterState:
    version = registry.version(member.stream, member.version)
    where = folder / f"{member.stream}-{member.version}"
    return AdapterState.load(registry.download(version, where))


def _used(stream: Stream, registry: Registry, batch: Batch) -> Version | None:
    """Return the version in use; for a batch learned before the one it was learned with then."""
    group, wanted = stream.learning.group, {one.digest for one in batch.each}
    name = population_name(group)
    here = registry.champion(name)
    been = [
        version
        for version in registry.versions(stream.name)
        if version.decision == PROMOTED and wanted & set(version.batches)
    ]
    if not been or been[-1].tags.get("bhpeft.group") != group:
        return here
    number = been[-1].tags.get("bhpeft.population_version")
    if not number:
        return None
    chain = registry.lineage(name, here.number if here else None)
    return next((one for one in chain if one.number == int(number) and one.has_files), here)


def _described(made: PopulationState, entered: Sequence[Member]) -> str:
    rows = [
        f"| {one} | {'entered' if one in entered else 'as before'} | `{one.digest[:12]}` |"
        for one in made.members
    ]
    taus = [f"| {block} | {value:.4g} |" for block, value in made.known.tau.items()]
    return "\n".join(
        [
            f"Made of {', '.join(map(str, made.members))}",
            *("", "| posterior | | tensors |", "|---|---|---|", *rows),
            *("", "| block | τ |", "|---|---|", *taus),
        ]
    )


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise RegistryError(
            "There is no place for a population's files", found=str(problem)
        ) from problem
    return folder
