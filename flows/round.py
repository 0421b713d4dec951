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

from bhpeft.errors import FitError
from flows.events import ROUND, tell
from flows.locks import ensure_limits, population_lock, promotion_lock, round_lock
from flows.outcomes import publish, state_of
from flows.steps import step_runner

if TYPE_CHECKING:
    from bhpeft.data.batch import Batch
    from bhpeft.rounds import Outcome, Turn
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
    """Learn `batch` of `stream`, or the batch whose turn it is."""
    from bhpeft.registry import Registry
    from bhpeft.rounds import IO_STEPS, gathered, learn, turn
    from bhpeft.stream import find_stream

    config = find_stream(stream, Path(home) if home else None)
    registry = Registry(config.tracking_uri)
    lock = partial(promotion_lock, config.name)
    group_lock = partial(population_lock, config.learning.group)
    return conduct(
        config,
        batch,
        partial(turn, config, registry, lock=lock, by=by),
        partial(learn, config, registry=registry, by=by, group_lock=group_lock),
        IO_STEPS,
        partial(gathered, config, registry),
    )


def conduct(
    stream: Stream,
    batch: str | None,
    turn: Callable[[], Turn],
    learn: Callable[..., Outcome],
    io_steps: Collection[str],
    gather: Callable[[Sequence[Batch]], Batch] | None = None,
) -> State[Any]:
    """Learn one batch inside the stream's lock; return the state that tells how it ended.

    Whether it is its turn is asked inside the lock: by the time a queued run starts, another
    may have learned it.

    Args:
        stream: the stream's configuration.
        batch: the batch's id, or None for the oldest; one that is named need not wait until it
            is tried again after a failure.
        turn: says whose turn it is, and why nobody's.
        learn: `rounds.learn`, short of its batch, its step runner and its lock.
        io_steps: names of the steps that may be retried.
        gather: says how many of those that follow are learned with it; none unless given.
    """
    run = step_runner({*io_steps, "turn"})
    ensure_limits(stream.name)
    with round_lock(stream.name):
        found = run(turn)
        able = found.pending if batch and found.later else found.batches
        waiting = [one for one in able if batch in (None, one.batch_id)]
        if not waiting:
            return nothing_to_learn(f"{stream.name} · {batch or 'no batch'}", found.why)
        lock = partial(promotion_lock, stream.name)
        with telling_failure(stream.name, waiting[0].batch_id, run, turn):
            chosen = waiting[0]
            if gather and not found.later:
                chosen = gather(able[able.index(chosen) :])
            outcome = learn(batch=chosen, run=run, lock=lock, progress=_progress.get())
    publish(outcome)
    state = state_of(outcome)
    facts = {"batch_id": outcome.batch_id, "version": outcome.version, "url": outcome.run_url}
    tell(ROUND + outcome.decision, stream.name, state.message or "", **facts)
    return state


@contextmanager
def telling_failure(
    stream: str, batch_id: str, run: Callable[..., Any], turn: Callable[[], Turn]
) -> Iterator[None]:
    """Tell when the round inside fails, and whether its batch now waits for a person."""
    try:
        yield
    except Exception as problem:
        said = f"{type(problem).__name__}: {problem}"
        tell(f"{ROUND}failed", stream, f"{stream} · {batch_id} failed: {said}", batch_id=batch_id)
        if isinstance(problem, FitError) and batch_id not in [
            one.batch_id for one in run(turn).pending
        ]:
            why = f"{stream} · {batch_id} is parked and waits for a person: {said}"
            tell(f"{ROUND}parked", stream, why, batch_id=batch_id)
        raise


def nothing_to_learn(what: str, why: str) -> State[Any]:
    """Return the terminal state of a round or a watch that had nothing to do, and why."""
    if why:
        return Completed(name="Waiting", message=f"{what}: {why}.")
    return Completed(name="Nothing pending", message=f"{what} is pending: nothing was learned.")


@contextmanager
def showing(progress: Callable[..., None]) -> Iterator[None]:
    """Send the progress of rounds run inside the scope, in this process, to `progress`."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)
