"""Watch a stream: learn its pending batches one after the other, oldest first, until none is left.

A stream that comes with a backlog shares its worker with others: after so many rounds a scheduled
watch ends, and the next one is queued behind whoever waits.

This flow is what schedules run. It is told a stream, never a batch: queued runs start in any order
and may be dropped, so what to do is read from the landing folder and the registry each time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import Flow, flow, get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Failed

from flows.events import ROUND, STALE, tell
from flows.locks import ensure_limits, promotion_lock, round_lock
from flows.round import nothing_to_learn, round_flow
from flows.steps import step_runner

if TYPE_CHECKING:
    from bhpeft.registry import Registry
    from bhpeft.rounds import Turn
    from bhpeft.stream import Stream

# A round that failed or crashed decided nothing: its batch keeps its place in the chain, and what
# comes after it waits until a later run of this flow has learned it.
GO_ON = {"Promoted", "Refused", "Held", "Quarantined", "Nothing pending", "Waiting"}
MEND_WITHIN = 5.0
# What a message says of a decision that a round died before it could tell of.
TOLD = {"promote": "promoted", "refuse": "refused", "hold": "held"}


MORE = "More to learn"


def go_on(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Queue the next watch where this one has left batches to it.

    It begins after this one has ended, since two at once are one too many. Where this is cut off,
    the schedule comes to the same batches.
    """
    if state.name != MORE or flow_run.deployment_id is None:
        return
    with get_client(sync_client=True) as client:
        key = f"{flow_run.id} goes on"
        client.create_flow_run_from_deployment(flow_run.deployment_id, idempotency_key=key)


@flow(name="watch", flow_run_name="{stream}", persist_result=False, on_completion=[go_on])
def watch(stream: str, home: str | None = None, by: str = "watch") -> State[Any]:
    """Run rounds of `stream`; each is a subflow.

    What a person starts learns all that is pending; what is deployed, as many batches as the
    stream file says, and leaves the others to a watch of their own.
    """
    why, most = [""], most_rounds(stream, home) if runtime.deployment.id else 0

    def oldest() -> str | None:
        found = look(stream, home, by)
        why.append(found.why)
        return found.batches[0].batch_id if found.batches else None

    def learn(batch: str) -> str:
        state = round_flow(stream=stream, batch=batch, home=home, by=by, return_state=True)
        return state.name or state.type.value

    endings = drain(oldest, learn, most)
    more = len(endings) == most and ended_well(endings) and oldest() not in (None, *endings)
    return state_of_watch(stream, endings, why[-1], more=more)


def most_rounds(stream: str, home: str | None) -> int:
    """Return how many rounds a scheduled watch of `stream` has; 0 is as many as there are."""
    from bhpeft.stream import find_stream

    return find_stream(stream, Path(home) if home else None).schedule.rounds_per_watch


def drain(
    oldest: Callable[[], str | None], learn: Callable[[str], str], most: int = 0
) -> dict[str, str]:
    """Learn the oldest batch until none is left, one comes back, or one must be looked at.

    Args:
        oldest: asked anew before each round, so that what lands meanwhile is seen.
        learn: runs a round and returns the name of its terminal state.
        most: rounds after which there are others; 0 is no limit.

    Returns:
        The terminal state's name of each batch, in order.
    """
    endings: dict[str, str] = {}
    while not (most and len(endings) >= most) and (batch := oldest()) and batch not in endings:
        endings[batch] = learn(batch)
        if not ended_well(endings):
            break
    return endings


def ended_well(endings: dict[str, str]) -> bool:
    """Say whether the last of some rounds, if there is one, decided about its batch."""
    return not endings or list(endings.values())[-1] in GO_ON


def look(stream: str, home: str | None = None, by: str = "watch") -> Turn:
    """Return whose turn it is in `stream`, after setting aside what cannot be read.

    A batch that is overdue is told, once a period.
    """
    from bhpeft.registry import Registry
    from bhpeft.rounds import set_unreadable_aside, turn
    from bhpeft.rounds.freshness import alarm
    from bhpeft.stream import find_stream

    config = find_stream(stream, Path(home) if home else None)
    registry = Registry(config.tracking_uri)
    ensure_limits(config.name)
    run = step_runner({"turn", "set_unreadable_aside", "alarm"})
    for folder in run(set_unreadable_aside, config, registry):
        get_run_logger().warning("%s/%s cannot be read and is in quarantine", stream, folder)
    if late := run(alarm, config):
        tell(STALE, config.name, late.message, newest=str(late.newest))
    ask = partial(run, turn, config, registry, lock=partial(promotion_lock, config.name), by=by)
    found: Turn = ask()
    if found.unfinished and mend(config, registry):
        found = ask()
    return found


def mend(config: Stream, registry: Registry) -> bool:
    """Finish what a crash left half done in a stream that has no round to do it; say whether.

    A round that goes on meanwhile has begun by mending, so there is no waiting for it.
    """
    from bhpeft.rounds import find_parent

    lock = partial(promotion_lock, config.name)
    try:
        with round_lock(config.name, timeout=MEND_WITHIN):
            _, mended = step_runner({"find_parent"})(find_parent, config, registry, lock)
    except TimeoutError:
        return False
    for move in mended:
        get_run_logger().warning("%s: finished after a crash: %s", config.name, move.title)
        if told := TOLD.get(move.kind):
            tell(ROUND + told, config.name, f"{config.name} · {move.title}: {move.why}")
    return True


def state_of_watch(
    stream: str, endings: dict[str, str], why: str = "", more: bool = False
) -> State[Any]:
    """Return the terminal state that tells what became of each batch, and what is waited for."""
    if not endings:
        return nothing_to_learn(f"{stream} · nothing", why)
    story = f"{stream}: " + ", ".join(f"{batch} {end.lower()}" for batch, end in endings.items())
    story += f"; {why}" if why else ""
    if more:
        return Completed(name=MORE, message=f"{story}; the next watch goes on")
    if ended_well(endings):
        return Completed(name=f"Watched {len(endings)}", message=story)
    return Failed(name="Round failed", message=f"{story}; it is tried again at the next run.")
