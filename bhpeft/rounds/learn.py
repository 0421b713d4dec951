"""Learn one batch: the whole round, as a composition of named steps.

Each step goes through `run`, which by default just calls it. A flow passes a runner that makes
every step a task of its own and retries the ones that only read or write (`IO_STEPS`); the round
itself knows nothing of that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bhpeft.allocator import give_back
from bhpeft.data.batch import Batch, merged
from bhpeft.data.contract import Contract, load_contract
from bhpeft.errors import BatchAlreadyLearned, BatchError
from bhpeft.registry import Move, Registry, Version
from bhpeft.registry.promotion import Lock
from bhpeft.rounds import shortage
from bhpeft.rounds.group import tell_group
from bhpeft.rounds.soundness import Run, sound_batches
from bhpeft.stream import Stream

# Called with a stage's name, how much of it is done and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """How a round ended, as plain data.

    Attributes:
        decision: "promoted", "refused", "held" or "quarantined".
        version, prior_version: the candidate's number and its prior's; None where there is none.
        metrics: the report's numbers by name.
        verdicts: each gate's verdict as a mapping.
        drift: whether drift was flagged; None where it could not be judged.
        reason: one line why.
        run_url: the MLflow run's page, where a server shows it.
    """

    stream: str
    batch_id: str
    decision: str
    version: int | None
    prior_version: int | None
    reason: str
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    drift: bool | None = None
    run_url: str | None = None


def direct(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a step; the runner where nothing orchestrates."""
    return step(*args, **kwargs)


def learn(
    stream: Stream,
    batch: Batch,
    registry: Registry,
    *,
    run: Run = direct,
    lock: Lock = nullcontext,
    group_lock: Lock = nullcontext,
    by: str = "bhpeft",
    progress: Progress | None = None,
) -> Outcome:
    """Run the round of one batch, from its contract to the champion alias.

    Args:
        stream: the stream.
        batch: the landed batch, or several merged; a malformed one takes no other down with it.
        registry: where versions and aliases live.
        run: calls each step; `direct`, or a flow's task runner.
        lock: makes the context under which the alias may be moved.
        group_lock: the same for the population of the stream's group.
        by: who asked, for the promotion log.
        progress: told how far the long stages are.

    Raises:
        BatchAlreadyLearned: the champion's chain holds this batch.
        FitError, StateError, ModelError, RegistryError, LandingError: the round ended without a
            decision; the batch stays pending and the champion where it was. A
            `FitError` is counted: see `backlog.parked`.
    """
    began = time.monotonic()
    parent, mended = run(find_parent, stream, registry, lock)
    finished = _finished(batch, registry, parent, mended)
    if finished is not None:
        made = _taken_up(finished, registry)
        told = _told(stream, registry, made, run, group_lock, by)
        return _outcome(stream, batch, finished.parent, made, began, told)
    _refuse_repetition(stream, batch, registry, parent)
    contract = load_contract(stream.contract, stream.task.value.needs)
    sound, ended = sound_batches(stream, batch, contract, registry, run)
    if not sound:
        problem, url = ended[-1]
        return _quarantined(stream, batch, parent, problem, url, began)
    batch = merged(sound)
    earlier = registry.attempt(stream.name, parent.number if parent else None, sound[0].digest)
    if earlier is None:
        made = _make_version(
            stream, batch, contract, registry, parent, run, progress, by, group_lock
        )
        give_back()
    else:
        made = _taken_up(earlier, registry)
    run(conclude, registry, made, parent, lock, by)
    told = _told(stream, registry, made, run, group_lock, by)
    return _outcome(stream, batch, parent.number if parent else None, made, began, told)


def find_parent(
    stream: Stream, registry: Registry, lock: Lock
) -> tuple[Version | None, list[Move]]:
    """Return the champion, after mending what a crash may have left half done, and the mending."""
    mended = registry.repair(stream.name, lock=lock)
    return registry.champion(stream.name), mended


def _make_version(
    stream: Stream,
    batch: Batch,
    contract: Contract,
    registry: Registry,
    parent: Version | None,
    run: Run,
    progress: Progress | None,
    by: str,
    group_lock: Lock,
) -> Any:
    """Train, examine and register the candidate, inside one MLflow run."""
    # The heavy half of the library: a watch that finds nothing pending never loads it.
    from bhpeft.rounds import population, recording, steps

    number = parent.number if parent else None
    with (
        registry.round_run(
            # A failure counts for the first of merged batches, which is then tried alone.
            stream.name,
            batch.batch_id,
            digest=batch.each[0].digest,
            parent=number,
            tags={"batch_ids": [one.batch_id for one in batch.each]},
            by=by,
        ) as page,
        tempfile.TemporaryDirectory(prefix="bhpeft-") as desk,
        shortage.named(),
    ):
        inherited = run(steps.fetch_parent, registry, parent, Path(desk, "parent"))
        at = Path(desk, "population")
        shared = {"by": by, "lock": group_lock}
        pinned = run(population.fetch_population, stream, registry, batch, at, **shared)
        ready = run(steps.prepare, stream, batch, contract, inherited, pinned)
        trained = run(steps.train_candidate, stream, ready, inherited, progress)
        trial = run(steps.examine, stream, ready, inherited, trained, progress)
        run(recording.write_down, page, stream, ready, trained, trial)
        folder = run(recording.packed, ready, trial, Path(desk, "candidate"))
        made: Any = run(recording.register, registry, page, folder, stream, ready, trained, trial)
    return made


def conclude(
    registry: Registry, made: Any, parent: Version | None, lock: Lock, by: str
) -> Move | None:
    """Move the alias, or log why it does not move."""
    version = made.version
    if made.decision == "promoted":
        return registry.promote(
            version.stream,
            version.number,
            expected_parent=parent.number if parent else None,
            by=by,
            reason=made.reason,
            lock=lock,
        )
    act = registry.refuse if made.decision == "refused" else registry.hold
    return act(version.stream, version.number, by=by, reason=made.reason)


def roll_back(
    stream: Stream,
    to: int,
    registry: Registry,
    *,
    by: str,
    reason: str,
    learned_since: Literal["refuse", "pending"] = "refuse",
    lock: Lock = nullcontext,
) -> Move:
    """Make a former champion the champion again; the next round starts from its posterior."""
    return registry.roll_back(
        stream.name,
        to,
        by=by,
        reason=reason,
        learned_since=learned_since,
        lock=lock,
    )


def _finished(
    batch: Batch, registry: Registry, champion: Version | None, mended: list[Move]
) -> Version | None:
    """Return the version that learned this batch, if mending has just put its chain back in use.

    A promotion was cut off, or the alias was taken away by hand: until then all looked pending.
    """
    if champion is None or all(move.to_version != champion.number for move in mended):
        return None
    mine = {one.digest for one in batch.each}
    return next((v for v in registry.book(champion.stream).chain if mine & set(v.batches)), None)


def _taken_up(version: Version, registry: Registry) -> Any:
    """Return what an interrupted attempt had already made, as its version's tags tell it."""
    from bhpeft.rounds.recording import remembered

    return remembered(version, registry)


def _refuse_repetition(
    stream: Stream, batch: Batch, registry: Registry, parent: Version | None
) -> None:
    if parent is None:
        return
    learned = registry.learned(stream.name, parent.number)
    again = next((one for one in batch.each if one.digest in learned), None)
    if again is None:
        return
    raise BatchAlreadyLearned(
        f"The batch {again.stream}/{again.batch_id} has been learned already",
        found=f"its fingerprint {again.digest[:12]} in the chain of v{parent.number}",
        expected="a batch the champion's chain does not hold",
        remedy="Learning it twice would count every row twice; nothing was changed.",
    )


def _quarantined(
    stream: Stream,
    batch: Batch,
    parent: Version | None,
    problem: BatchError,
    url: str | None,
    began: float,
) -> Outcome:
    return Outcome(
        stream=stream.name,
        batch_id=batch.batch_id,
        decision="quarantined",
        version=None,
        prior_version=parent.number if parent else None,
        reason=problem.message,
        seconds=time.monotonic() - began,
        run_url=url,
    )


def _told(
    stream: Stream, registry: Registry, made: Any, run: Run, group_lock: Lock, by: str
) -> str:
    promoted = made.decision == "promoted"
    return tell_group(stream, registry, run=run, lock=group_lock, by=by) if promoted else ""


def _outcome(
    stream: Stream, batch: Batch, prior: int | None, made: Any, began: float, told: str = ""
) -> Outcome:
    return Outcome(
        stream=stream.name,
        batch_id=batch.batch_id,
        decision=made.decision,
        version=made.version.number,
        prior_version=prior,
        reason=made.reason + told,
        seconds=time.monotonic() - began,
        metrics=made.metrics,
        verdicts=made.verdicts,
        drift=made.drift,
        run_url=made.run_url,
    )


# Steps that only read or write, so that doing them again is safe and may help.
IO_STEPS = {
    "find_parent",
    "stage_batch",
    "check_batch",
    "set_aside",
    "fetch_parent",
    "fetch_population",
    "write_down",
    "conclude",
    "follow_champions",
}
