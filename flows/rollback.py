"""Roll a stream back to an older version as a Prefect flow, so that the move has a run to show."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.locks import ensure_limits, population_lock, promotion_lock
from flows.steps import step_runner


@flow(name="rollback", flow_run_name="{stream} → version {to}", persist_result=False)
def rollback(
    stream: str,
    to: int,
    reason: str,
    by: str,
    home: str | None = None,
    learned_since: str = "refuse",
) -> State[Any]:
    """Move the champion of a stream to an older version; the next round starts from there.

    A round that runs meanwhile finds its parent no longer champion, and does not promote.

    Args:
        stream: the stream's name.
        to: the number of a version that has been champion.
        reason: why, in one line; the promotion log keeps it.
        by: who decides.
        home: the streams' folder on the worker; leave it as it is.
        learned_since: what becomes of the batches learned since: "refuse" them, or make them
            "pending" again.
    """
    from bhpeft.registry import Registry
    from bhpeft.rounds import roll_back, tell_group
    from bhpeft.stream import find_stream

    config = find_stream(stream, Path(home) if home else None)
    ensure_limits(config.name)
    registry, run = Registry(config.tracking_uri), step_runner()
    # Not retried: a person waits for the answer, and an answer lost on the way may have been yes.
    move = run(
        roll_back,
        config,
        to,
        registry,
        by=by,
        reason=reason,
        learned_since=learned_since,
        lock=partial(promotion_lock, config.name),
    )
    message = f"{config.name} · champion is version {to} ({by}): {reason}"
    lock = partial(population_lock, config.learning.group)
    message += tell_group(config, registry, run=run, by=by, lock=lock)
    return Completed(name="Rolled back", message=message, data=move)
