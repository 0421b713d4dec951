"""Put watches of streams, populations of groups and what keeps registries small on schedule."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowFilter,
    FlowFilterName,
)
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
)
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import Posture
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists
from prefect.schedules import Cron, Interval, RRule, Schedule
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from bhpeft.errors import ServerError
from flows.approval import approve
from flows.events import LANDED, resource_of
from flows.gc import SCHEDULE, gc
from flows.locks import ensure_limits
from flows.notifications import ensure_notification
from flows.population import population
from flows.reaper import TAG, ensure_reaper
from flows.replay import replay
from flows.rollback import rollback
from flows.watch import watch

if TYPE_CHECKING:
    from bhpeft.stream import Stream

HOUR = timedelta(hours=1)
WORK_POOL = "bhpeft"
# A second watch would find the same batches; the running one looks again before it ends.
ONE_AT_A_TIME = ConcurrencyLimitConfig(
    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
)
# What a person starts from a form in Prefect's page, on whatever stream.
FORMS: tuple[Flow[..., Any], ...] = (approve, rollback, replay)
ANY_STREAM, ALL_STREAMS = "any-stream", "all-streams"
# What a population's own run says of why and by whom.
AS_SCHEDULED = {"reason": "on schedule", "by": "schedule"}


def deploy_all(streams: Iterable[Stream], home: Path, env: dict[str, str]) -> list[str]:
    """Deploy the watch of each stream of `home` and the population of each group.

    Those of streams and groups that are gone lose their schedule.

    Args:
        streams: what is to be watched.
        home: the folder of their files, on the worker's machine.
        env: variables the rounds' processes need (`Servers.env`).

    Returns:
        The deployments' names: "watch/<stream>", "population/<group>", and one for each flow a
        person starts.
    """
    ensure_work_pool()
    streams = list(streams)
    names = [deploy(stream, home, env) for stream in streams]
    groups = groups_of(streams)
    names += [deploy_group(group, home, env) for group in groups]
    names += [deploy_form(flow, home, env) for flow in FORMS]
    names.append(deploy_gc(home, env))
    kept = {watch.name: {stream.name for stream in streams}, population.name: set(groups)}
    unschedule_all_but(kept, home)
    ensure_reaper()
    return names


def deploy_form(flow: Flow[..., Any], home: Path, env: dict[str, str]) -> str:
    """Deploy a flow that a person starts: Prefect's page shows its parameters as a form."""
    return _apply(flow, ANY_STREAM, home, env, parameters={}, description=flow.description or "")


def deploy_gc(home: Path, env: dict[str, str]) -> str:
    """Deploy what keeps registries small, each night; a person may start it at any time."""
    about = (gc.description or "").strip().splitlines()[0]
    return _apply(
        gc,
        ALL_STREAMS,
        home,
        env,
        parameters={},
        description=about,
        schedule=SCHEDULE,
        concurrency_limit=ONE_AT_A_TIME,
    )


def deploy(stream: Stream, home: Path, env: dict[str, str]) -> str:
    """Deploy the watch of `stream` on its schedule and on the event of a batch that landed.

    One run at a time, a second one is cancelled. Cancelling loses nothing: the running watch looks
    for pending batches until there is none, or queues the next watch when it has ended.
    """
    ensure_limits(stream.name)
    ensure_notification(stream)
    return _apply(
        watch,
        stream.name,
        home,
        env,
        parameters={"stream": stream.name},
        description=stream.description or f"Learns the pending batches of {stream.name}.",
        work_queue_name=stream.compute.queue,
        schedule=_schedule(stream),
        triggers=[_wake_up(stream)],
        concurrency_limit=ONE_AT_A_TIME,
    )


def groups_of(streams: Iterable[Stream]) -> list[str]:
    """Return the groups that streams share a population in, by name."""
    return sorted({stream.learning.group for stream in streams} - {""})


def deploy_group(group: str, home: Path, env: dict[str, str]) -> str:
    """Deploy the population of `group`: each hour it is made to agree with the champions.

    Rounds, approvals and rollbacks see to that themselves. What is left is a process that died
    before it could, and a champion that was moved by other hands; neither should wait for the
    group's next batch. From its form in Prefect's page a person rolls it back.
    """
    return _apply(
        population,
        group,
        home,
        env,
        parameters={"group": group, **AS_SCHEDULED},
        description=population_told(group),
        schedule=Interval(HOUR),
        concurrency_limit=ONE_AT_A_TIME,
    )


def population_told(group: str) -> str:
    """Return what Prefect's page says of a group's deployment."""
    return f"Lets the population of {group} follow its champions; with a version, rolls it back."


def unschedule_all_but(kept: Mapping[str, set[str]], home: Path) -> list[str]:
    """Take the schedules from this home's other deployments; return their names.

    Args:
        kept: by the flow's name, the deployments that keep theirs.
        home: the streams' folder.

    The deployment itself stays: Prefect cannot end a run whose deployment is gone. Those of another
    home on the same server are left alone.
    """
    gone = []
    with get_client(sync_client=True) as client:
        for flow, names in kept.items():
            for deployment in _deployed(client, home, flow):
                if deployment.name in names or not deployment.schedules:
                    continue
                for schedule in deployment.schedules:
                    client.delete_deployment_schedule(deployment.id, schedule.id)
                gone.append(deployment.name)
    return gone


def next_runs(home: Path) -> dict[str, datetime]:
    """Return when each watched stream of `home` looks for batches next."""
    with get_client(sync_client=True) as client:
        found = _deployed(client, home, watch.name)
        watches = {deployment.id: deployment.name for deployment in found}
        runs = client.get_scheduled_flow_runs_for_deployments(list(watches)) if watches else []
    coming: dict[str, datetime] = {}
    for run in runs:
        if run.deployment_id and (at := run.expected_start_time):
            name = watches[run.deployment_id]
            coming[name] = min(at, coming.get(name, at))
    return coming


def ensure_work_pool() -> None:
    """Create the work pool whose rounds are processes on the worker's machine."""
    pool = WorkPoolCreate(
        name=WORK_POOL,
        type="process",
        base_job_template=ProcessWorker.get_default_base_job_template(),
        description="Rounds of bhpeft streams.",
    )
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)


def await_scheduled_run(timeout: float = 30.0) -> float:
    """Set a schedule, wait for its first run to be planned, remove both; return the seconds.

    A server can look healthy and never plan a run: Prefect 3.8.8 on SQLAlchemy 2.1 does.

    Raises:
        ServerError: no run was planned within `timeout` seconds.
    """
    with get_client(sync_client=True) as client:
        begun = time.monotonic()
        # Nothing fetches runs of a deployment without a work pool: it is planned, never run.
        deployment = client.create_deployment(
            client.create_flow_from_name("bhpeft-doctor"),
            name=f"schedule-{uuid4().hex[:8]}",
            schedules=[DeploymentScheduleCreate(schedule=IntervalSchedule(interval=HOUR))],
        )
        try:
            while not client.get_scheduled_flow_runs_for_deployments([deployment]):
                if time.monotonic() - begun > timeout:
                    raise ServerError(
                        "The Prefect server does not plan scheduled runs",
                        found=f"none within {timeout:.0f} s",
                        expected="one within 10 s",
                        remedy="Check sqlalchemy<2.1 where the server runs, then restart it.",
                    )
                time.sleep(0.5)
        finally:
            client.delete_deployment(deployment)  # with its planned runs
        return time.monotonic() - begun


def _apply(
    flow: Flow[..., Any],
    name: str,
    home: Path,
    env: dict[str, str],
    *,
    parameters: dict[str, Any],
    **options: Any,
) -> str:
    # Named by module, not by file: the same where bhpeft is an installed wheel.
    deployment = RunnerDeployment.from_flow(
        flow,
        name=name,
        parameters={**parameters, "home": str(home.resolve())},
        tags=[TAG],
        work_pool_name=WORK_POOL,
        job_variables={"env": dict(env), "working_dir": str(home.resolve())},
        entrypoint_type=EntrypointType.MODULE_PATH,
        **options,
    )
    deployment.apply()
    return f"{flow.name}/{name}"


def _wake_up(stream: Stream) -> DeploymentEventTrigger:
    """Return the trigger that starts the watch within seconds; it carries no batch."""
    return DeploymentEventTrigger(
        name=f"bhpeft: a batch of {stream.name} landed",
        expect={LANDED},
        match=ResourceSpecification({"prefect.resource.id": [resource_of(stream.name)]}),
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(),
        parameters={},
    )


def _deployed(client: SyncPrefectClient, home: Path, flow: str) -> list[Any]:
    found = client.read_deployments(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])),
    )
    return [d for d in found if d.parameters.get("home") == str(home.resolve())]


def _schedule(stream: Stream) -> Schedule | None:
    when = stream.schedule
    if when.cron:
        return Cron(when.cron, timezone=when.timezone)
    if when.rrule:
        return RRule(when.rrule, timezone=when.timezone)
    return Interval(when.seconds, timezone=when.timezone) if when.seconds else None
