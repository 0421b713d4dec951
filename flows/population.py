"""Move a group's population prior as a Prefect flow, so that the move has a run to show."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.locks import population_lock
from flows.steps import step_runner


def told() -> str:
    """Return the name of a run: what it does to which group."""
    given = runtime.flow_run.parameters
    return f"{given['group']} " + (f"→ version {to}" if (to := given.get("to")) else "follows")


@flow(name="population", flow_run_name=told, persist_result=False)
def population(
    group: str,
    reason: str,
    by: str,
    to: int | None = None,
    home: str | None = None,
) -> State[Any]:
    """Move a group's population back to an older version, or make it follow the champions now.

    Args:
        group: the group's name.
        reason: why, in one line; the log keeps it.
        by: who decides.
        to: a version that has been in use; without one the population follows the champions.
        home: the streams' folder on the worker; leave it as it is.
    """
    from bhpeft.registry import Registry, population_name
    from bhpeft.rounds.population import follow, group_registry, roll_back_population

    where = Path(home) if home else None
    config = group_registry(group, where)
    registry, run = Registry(config.tracking_uri), step_runner()
    lock = partial(population_lock, group)
    if to is None:
        before = registry.champion(population_name(group))
        made = run(follow, group, registry, config.cache.parent, by=by, lock=lock)
        said = f"version {made.number}" if made else "nobody: no champion has been learned in it"
        same = (made and made.number) == (before and before.number)
        name = "Up to date" if same else "Followed"
        return Completed(name=name, message=f"{group} · {said} ({by}): {reason}", data=made)
    move = run(roll_back_population, group, to, registry, by=by, reason=reason, lock=lock)
    message = f"{group} · population is version {to} ({by}): {reason}"
    return Completed(name="Rolled back", message=message, data=move)
