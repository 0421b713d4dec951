"""Tell batches that can be learned from those that cannot, and set these aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bhpeft.data.batch import Batch, Unreadable
from bhpeft.data.check import check
from bhpeft.data.contract import Contract
from bhpeft.data.quarantine import quarantine, quarantined
from bhpeft.errors import BatchError, ContractViolation
from bhpeft.registry import Registry
from bhpeft.rounds.backlog import landing_of
from bhpeft.stream import Stream

Run = Callable[..., Any]


def sound_batches(
    stream: Stream, batch: Batch, contract: Contract, registry: Registry, run: Run
) -> tuple[list[Batch], list[tuple[BatchError, str | None]]]:
    """Return those of a round's batches that can be learned, and why the others are set aside."""
    sound: list[Batch] = []
    aside: list[tuple[BatchError, str | None]] = []
    for one in batch.each:
        try:
            here = run(stage_batch, stream, one, contract)
            run(check_batch, here, contract)
            sound.append(here)
        except BatchError as problem:
            aside.append((problem, run(set_aside, stream, one, registry, problem)))
    return sound, aside


def stage_batch(stream: Stream, batch: Batch, contract: Contract) -> Batch:
    """Fetch the batch to this machine if it landed elsewhere."""
    return landing_of(stream).staged(batch, contract)


def check_batch(batch: Batch, contract: Contract) -> None:
    """Check the batch's files and rows against the contract."""
    check(batch, contract)


def set_aside(
    stream: Stream, batch: Batch | Unreadable, registry: Registry, problem: BatchError
) -> str | None:
    """Put a batch in quarantine, and on record in MLflow; return the record's page, if any."""
    quarantine(batch, problem, stream.quarantine)
    if isinstance(batch, Unreadable):
        return None
    reasons = problem.reasons if isinstance(problem, ContractViolation) else []
    page = registry.quarantined(
        stream.name, batch.batch_id, digest=batch.digest, error=problem.message, reasons=reasons
    )
    return registry.link(page)


def set_unreadable_aside(stream: Stream, registry: Registry) -> list[str]:
    """Quarantine folders whose manifest cannot be read; return their names."""
    known = {record["folder"] for record in quarantined(stream.quarantine).values()}
    broken = [one for one in landing_of(stream).unreadable() if one.address not in known]
    for one in broken:
        set_aside(stream, one, registry, one.error)
    return [one.batch_id for one in broken]
