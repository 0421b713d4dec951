"""Tell batches that can be learned from those that cannot, and set these aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bhpeft.data.batch import Batch, Unreadable
from bhpeft.data.check import check
from bhpeft.data.contract import Contract
from bhpeft.data.quarantine import ROWS, quarantine
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
    """Put a batch in quarantine; return the record's page, if any.

    The folder on this machine is for people; MLflow's run is what all machines go by.
    """
    rows = quarantine(batch, problem, stream.quarantine) / ROWS
    page = registry.quarantined(
        stream.name,
        batch.batch_id,
        digest=batch.digest,
        error=problem.message,
        reasons=problem.reasons if isinstance(problem, ContractViolation) else (),
        rows=rows if rows.exists() else None,
    )
    return registry.link(page)


def set_unreadable_aside(stream: Stream, registry: Registry) -> list[str]:
    """Quarantine folders whose manifest cannot be read; return their names."""
    found = landing_of(stream).unreadable()
    known = registry.book(stream.name).quarantined if found else {}
    # What a producer still writes to changes; it is the same folder, and said once.
    names = {failure.batch_id for failure in known.values()}
    broken = [one for one in found if one.batch_id not in names]
    for one in broken:
        set_aside(stream, one, registry, one.error)
    return [one.batch_id for one in broken]
