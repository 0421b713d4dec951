"""Run one round of a stream as a Prefect flow: take the lock, learn a batch, say how it ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.locks import ensure_limits, promotion_lock, round_lock
from flows.outcomes import publish, state_of
from flows.steps import step_runner

if TYPE_CHECKING:
    from bhpeft.data.batch import Batch
    from bhpeft.rounds import Outcome
    from bhpeft.stream import Stream

# A callback is no flow parameter (those are JSON, shown in the UI), hence its own way in.
_progress: ContextVar[Callable[..., None] | None] = ContextVar("progress", default=None)


def run_name() -> str:
    """Return « stream · batch », the name of this flow run."""
    parameters = runtime.flow_run.parameters
    return f"{parameters['stream']} · {parameters.get('batch') or 'oldest pending'}"


@flow(name="round", flow_run_name=run_name, persist_result=False)
def round_flow(
    stream: str, batch: str | None = None, home: str | None = None, by: str = "round"
) -> State[Any]:
    """Learn `batch` of `stream`, or its oldest pending batch."""
    from bhpeft.registry import Registry
    from bhpeft.rounds import IO_STEPS, learn, pending
    from bhpeft.stream import find_stream

    config = find_stream(stream, Path(home) if home else None)
    registry = Registry(config.tracking_uri)
    return conduct(
        config,
        batch,
        partial(pending, config, registry),
        partial(learn, config, registry=registry, by=by),
        IO_STEPS,
    )


def conduct(
    stream: Stream,
    batch: str | None,
    pending: Callable[[], Sequence[Batch]],
    learn: Callable[..., Outcome],
    io_steps: Collection[str],
) -> State[Any]:
    """Learn one pending batch inside the stream's lock; return the state that tells how it ended.

    Whether the batch is pending is asked inside the lock: by the time a queued run starts, another
    may have learned it.

    Args:
        stream: the stream's configuration.
        batch: the batch's id, or None for the oldest.
        pending: lists what waits, oldest first.
        learn: `rounds.learn`, short of its batch, its step runner and its lock.
        io_steps: names of the steps that may be retried.
    """
    run = step_runner({*io_steps, "pending"})
    ensure_limits(stream.name)
    with round_lock(stream.name):
        waiting = [one for one in run(pending) if batch in (None, one.batch_id)]
        if not waiting:
            message = f"{stream.name} · {batch or 'no batch'} is pending: nothing was learned."
            return Completed(name="Nothing pending", message=message)
        lock = partial(promotion_lock, stream.name)
        outcome = learn(batch=waiting[0], run=run, lock=lock, progress=_progress.get())
    publish(outcome)
    return state_of(outcome)


@contextmanager
def showing(progress: Callable[..., None]) -> Iterator[None]:
    """Send the progress of rounds run inside the scope, in this process, to `progress`."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)
