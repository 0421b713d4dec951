"""What must be true of a stream whenever it has been left alone, whatever happened to it before.

1. Every landed batch is learned exactly once on the champion's chain, or is pending, quarantined,
   refused or held; the chain's own state files say the same as the registry.
2. The champion is a whole version: its files have their checksums, its model predicts, its gates
   passed.
3. Two rounds of the stream never overlapped.
4. A stale candidate never won: every promotion continued the champion of its moment.
5. Nothing is half done: no open entry in the log, no run still running, the aliases where the log
   says, every decision in the log; and repairing finds nothing to repair.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from bhpeft.registry import Registry, Version
from bhpeft.rounds import pending
from bhpeft.stream import Stream


def violations(stream: Stream, registry: Registry, timed: bool = True) -> list[str]:
    """Return every broken promise, each as one line; empty is what is hoped for.

    Args:
        stream: the stream.
        registry: where it is.
        timed: whether rounds came one at a time and their clocks were right. Where a worker was
            suspended until its lock had gone to another they overlapped, and all that can be
            promised is that one of them counted.
    """
    checks = [_batches, _champion, _moves, _half_done]
    if timed:
        checks.append(_overlap)
    return [problem for check in checks for problem in check(stream, registry)]


def posteriors(stream: Stream, registry: Registry) -> list[tuple[str, str]]:
    """Return batch and checksum of the posterior, along the champion's chain, oldest first."""
    champion = registry.champion(stream.name)
    chain = registry.lineage(stream.name, champion.number if champion else None)
    return [("+".join(v.batch_ids), v.checksums["posterior.safetensors"]) for v in reversed(chain)]


def fates(stream: Stream, registry: Registry) -> dict[str, str]:
    """Return what became of each landed batch, by its id."""
    from bhpeft.rounds.backlog import landing_of

    champion = registry.champion(stream.name)
    chain = registry.lineage(stream.name, champion.number if champion else None)
    learned = Counter(digest for version in chain for digest in version.batches)
    held = {digest for version in registry.held(stream.name) for digest in version.batches}
    waiting = {batch.digest for batch in pending(stream, registry)}
    books: dict[str, Any] = {
        "learned": learned,
        "pending": waiting,
        "quarantined": registry.book(stream.name).quarantined,
        "refused": registry.refused(stream.name),
        "held": held,
    }
    found = {}
    for batch in landing_of(stream).landed({}):
        fate = [name for name, book in books.items() if batch.digest in book]
        if learned[batch.digest] > 1:
            fate.append(f"learned {learned[batch.digest]} times")
        found[batch.batch_id] = "+".join(fate) or "lost"
    return found


def _batches(stream: Stream, registry: Registry) -> Iterator[str]:
    for batch_id, fate in fates(stream, registry).items():
        if fate not in ("learned", "pending", "quarantined", "refused", "held"):
            yield f"batch {batch_id} is {fate}"


def _champion(stream: Stream, registry: Registry) -> Iterator[str]:
    champion = registry.champion(stream.name)
    if champion is None:
        if registry.history(stream.name):
            yield "there is a promotion log and no champion"
        return
    if champion.decision != "promoted" or '"fail"' in champion.tags.get("bhpeft.verdicts", ""):
        yield f"champion {champion} did not pass its gates"
    with tempfile.TemporaryDirectory() as desk:
        try:
            yield from _loads(stream, registry, champion, Path(desk, "state"))
        except Exception as problem:
            yield f"champion {champion} cannot be used: {type(problem).__name__}: {problem}"


def _loads(stream: Stream, registry: Registry, champion: Version, desk: Path) -> Iterator[str]:
    from bhpeft.learning.predict import Predictor
    from bhpeft.learning.state import AdapterState

    files = registry.download(champion, desk)
    said = [absorbed.batch_id for absorbed in AdapterState.load(files).spec.absorbed]
    chain = registry.lineage(stream.name, champion.number)
    logged = [batch for version in reversed(chain) for batch in version.batch_ids]
    if said != logged:
        yield f"champion {champion} says it learned {said}, the registry {logged}"
    Predictor.load(files).predict(["a lovely film"])


def _overlap(stream: Stream, registry: Registry) -> Iterator[str]:
    spans = sorted(
        (run.info.start_time, run.info.end_time or run.info.start_time, run.info.run_name)
        for run in _runs(stream, registry)
    )
    for (_, end, one), (start, _, other) in pairwise(spans):
        if start < end:
            yield f"rounds {one!r} and {other!r} overlapped by {end - start} ms"


def _moves(stream: Stream, registry: Registry) -> Iterator[str]:
    at: int | None = None
    for move in registry.history(stream.name):
        if not move.moves_champion:
            continue
        by_hand = move.kind == "repair"
        if move.from_version != at and not by_hand:
            yield f"«{move.title}» while the champion was {at}"
        if move.kind == "promote" and move.to_version is not None:
            parent = registry.version(stream.name, move.to_version).parent
            if parent != move.from_version:
                yield f"«{move.title}», but it continues v{parent}: a stale candidate won"
        at = move.to_version
    champion = registry.champion(stream.name)
    if (champion.number if champion else None) != at:
        yield f"champion is {champion}, the log says v{at}"


def _half_done(stream: Stream, registry: Registry) -> Iterator[str]:
    for version in registry.book(stream.name).never_logged:
        yield f"{version} was {version.decision}, and the log does not say so"
    for run in _runs(stream, registry):
        if run.info.status == "RUNNING":
            yield f"run {run.info.run_name!r} is still running"
    if mended := registry.repair(stream.name):
        yield f"there was something to repair: {[move.title for move in mended]}"


def _runs(stream: Stream, registry: Registry) -> list[Any]:
    connection = registry.connection
    experiment = connection.known_experiment(f"bhpeft/{stream.name}")
    return list(connection.client.search_runs([experiment])) if experiment else []
