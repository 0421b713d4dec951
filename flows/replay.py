"""Rebuild a stream's chain without a bad batch, as a Prefect flow: back, then round after round."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.locks import ensure_limits, promotion_lock
from flows.round import round_flow
from flows.steps import step_runner
from flows.watch import GO_ON, drain


@flow(name="replay", flow_run_name="{stream}", persist_result=False)
def replay(
    stream: str,
    reason: str,
    by: str,
    without: list[str] | None = None,
    start: int | None = None,
    home: str | None = None,
) -> State[Any]:
    """Move the champion back to before the bad batches, and learn the others again, in order.

    Started again after it was interrupted it goes on where it was, and so does the stream's watch.

    Args:
        stream: the stream's name.
        reason: why, in one line; the promotion log keeps it.
        by: who decides.
        without: ids of the bad batches; if none is given, the one learned right after `start`.
        start: the last good version; if it is not given, the one before the first bad batch.
        home: the streams' folder on the worker; leave it as it is.
    """
    from bhpeft.registry import Registry
    from bhpeft.rounds import turn
    from bhpeft.rounds.rebuild import begin_replay, next_of_replay, plan_replay
    from bhpeft.stream import find_stream

    config = find_stream(stream, Path(home) if home else None)
    registry, lock = Registry(config.tracking_uri), partial(promotion_lock, config.name)
    ensure_limits(config.name)
    run = step_runner({"turn"})
    plan = run(plan_replay, config, registry, without or [], start)
    run(begin_replay, config, registry, plan, by=by, reason=reason, lock=lock)

    def oldest() -> str | None:
        batch = next_of_replay(plan, run(turn, config, registry, lock=lock, by=by).batches)
        return batch.batch_id if batch else None

    def learn(batch: str) -> str:
        state = round_flow(stream=stream, batch=batch, home=home, by=by, return_state=True)
        return state.name or state.type.value

    return state_of_replay(stream, plan.start, drain(oldest, learn))


def state_of_replay(stream: str, start: int, endings: dict[str, str]) -> State[Any]:
    """Return the terminal state that tells what became of each batch learned again."""
    story = ", ".join(f"{batch} {ending.lower()}" for batch, ending in endings.items())
    message = f"{stream} · rebuilt from version {start}: {story or 'nothing to learn again'}"
    if endings and list(endings.values())[-1] not in GO_ON:
        return Failed(name="Round failed", message=f"{message}; run it again, or leave it to watch")
    return Completed(name="Replayed", message=message, data=endings)
