"""Let no lost round stay Running: its heartbeats stop, and an automation marks it Crashed."""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

# What bhpeft deploys has this tag, and only that is watched.
TAG = "bhpeft"
REAPER = "bhpeft: a round without heartbeat is crashed"
# Three missed heartbeats of 30 s each (flows/environment.py sets that rhythm).
SILENCE = timedelta(seconds=90)
ENDINGS = ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Paused", "Suspended")


def ensure_reaper(silence: timedelta = SILENCE) -> None:
    """Install the automation that marks a round Crashed when its heartbeats stop.

    Prefect's own server leaves the run of a lost machine in Running for ever. Only runs of flows
    deployed by bhpeft are watched: others may beat more slowly.
    """
    wanted = _reaper(silence)
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(REAPER)
        if not found:
            client.create_automation(wanted)
        for extra in found[1:]:
            client.delete_automation(extra.id)
        if found:
            client.update_automation(found[0].id, wanted)


def _reaper(silence: timedelta) -> AutomationCore:
    heartbeat = "prefect.flow-run.heartbeat"
    trigger = EventTrigger(
        # Also when it begins: a process may die before its first heartbeat has left it.
        after={heartbeat, "prefect.flow-run.Running"},
        expect={heartbeat, *(f"prefect.flow-run.{ending}" for ending in ENDINGS)},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=ResourceSpecification(
            {"prefect.resource.role": ["tag"], "prefect.resource.id": [f"prefect.tag.{TAG}"]}
        ),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=silence,
    )
    crash = ChangeFlowRunState(
        name="Crashed",
        state=StateType.CRASHED,
        message=f"No heartbeat for {silence.total_seconds():.0f} s: process or machine lost.",
        force=False,
    )
    return AutomationCore(name=REAPER, trigger=trigger, actions=[crash])
