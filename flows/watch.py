"""Watch a stream: learn its pending batches one after the other, oldest first, until none is left.

This flow is what schedules run. It is told a stream, never a batch: queued runs start in any order
and may be dropped, so what to do is read from the landing folder and the registry each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.round import round_flow
from flows.steps import step_runner

# A round that failed or crashed decided nothing: its batch keeps its place in the chain, and what
# comes after it waits until a later run of this flow has learned it.
GO_ON = {"Promoted", "Refused", "Held", "Quarantined", "Nothing pending"}


@flow(name="watch", flow_run_name="{stream}", persist_result=False)
def watch(stream: str, home: str | None = None, by: str = "watch") -> State[Any]:
    """Run rounds of `stream` until nothing is pending; each is a subflow."""

    def learn(batch: str) -> str:
        state = round_flow(stream=stream, batch=batch, home=home, by=by, return_state=True)
        return state.name or state.type.value

    return state_of_watch(stream, drain(partial(oldest_pending, stream, home), learn))


def drain(oldest: Callable[[], str | None], learn: Callable[[str], str]) -> dict[str, str]:
    """Learn the oldest batch until none is left, one comes back, or one must be looked at.

    Args:
        oldest: asked anew before each round, so that what lands meanwhile is seen.
        learn: runs a round and returns the name of its terminal state.

    Returns:
        The terminal state's name of each batch, in order.
    """
    endings: dict[str, str] = {}
    while (batch := oldest()) and batch not in endings:
        endings[batch] = learn(batch)
        if endings[batch] not in GO_ON:
            break
    return endings


def oldest_pending(stream: str, home: str | None = None) -> str | None:
    """Return the id of the oldest batch of `stream` that waits, or None."""
    from bhpeft.registry import Registry
    from bhpeft.rounds import pending
    from bhpeft.rounds.learn import set_unreadable_aside
    from bhpeft.stream import find_stream

    config = find_stream(stream, Path(home) if home else None)
    registry = Registry(config.tracking_uri)
    run = step_runner({"pending", "set_unreadable_aside"})
    for folder in run(set_unreadable_aside, config, registry):
        get_run_logger().warning("%s/%s cannot be read and is in quarantine", stream, folder)
    batches = run(pending, config, registry)
    return batches[0].batch_id if batches else None


def state_of_watch(stream: str, endings: dict[str, str]) -> State[Any]:
    """Return the terminal state that tells what became of each batch."""
    if not endings:
        return Completed(name="Nothing pending", message=f"{stream}: nothing is pending.")
    story = f"{stream}: " + ", ".join(f"{batch} {end.lower()}" for batch, end in endings.items())
    last = list(endings.values())[-1]
    if last in GO_ON:
        return Completed(name=f"Watched {len(endings)}", message=story)
    return Failed(name="Round failed", message=f"{story}; it is tried again at the next run.")
