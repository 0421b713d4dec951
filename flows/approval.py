"""Decide about a held candidate: from the command line, or from a form in Prefect's page.

A run that waited for a person would give its place away meanwhile (Prefect frees the slot of a
paused run), so the round has ended long ago and this is a run of its own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.locks import ensure_limits, population_lock, promotion_lock
from flows.steps import step_runner


@flow(name="approve", flow_run_name="{stream} version {version}", persist_result=False)
def approve(
    stream: str,
    version: int,
    reason: str,
    by: str,
    approve: bool = True,
    home: str | None = None,
) -> State[Any]:
    """Make a held candidate the champion, or refuse it.

    Args:
        stream: the stream's name.
        version: the number of the candidate that waits; its page in MLflow shows the gates.
        reason: why, in one line; the promotion log keeps it.
        by: who decides.
        approve: on to promote it, off to refuse it and its batch.
        home: the streams' folder on the worker; leave it as it is.
    """
    from bhpeft import rounds
    from bhpeft.registry import Registry
    from bhpeft.stream import find_stream

    config = find_stream(stream, Path(home) if home else None)
    ensure_limits(config.name)
    registry, run = Registry(config.tracking_uri), step_runner()
    # Not retried: a person waits for the answer, and an answer lost on the way may have been yes.
    move = run(
        rounds.approve if approve else rounds.reject,
        config,
        version,
        registry,
        by=by,
        reason=reason,
        lock=partial(promotion_lock, config.name),
    )
    name = "Approved" if approve else "Rejected"
    message = f"{config.name} · version {version} {name.lower()} by {by}: {reason}"
    if approve:
        lock = partial(population_lock, config.learning.group)
        message += rounds.tell_group(config, registry, run=run, by=by, lock=lock)
    return Completed(name=name, message=message, data=move)
