"""Write the file from which `prefect deploy --all` deploys every stream of a fleet.

What a stream's file says of its schedule, queue and description is written once, there; this is its
translation, beside what is the same for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prefect import Flow

from flows.deployments import (
    ALL_STREAMS,
    ANY_STREAM,
    AS_SCHEDULED,
    FORMS,
    HOUR,
    WORK_POOL,
    groups_of,
    population_told,
)
from flows.events import LANDED, resource_of
from flows.gc import NIGHTLY, gc
from flows.reaper import TAG

if TYPE_CHECKING:
    from bhpeft.stream import Stream

HEAD = f"""\
# The same flows for a fleet: one Prefect server for the team, workers on the machines that train.
# Written by `bhpeft render deploy/prefect.yaml` from the stream files: change those, render again.
#
#   export PREFECT_API_URL=https://prefect.example.org/api
#   export MLFLOW_TRACKING_URI=https://mlflow.example.org
#   export BHPEFT_HOME=/srv/bhpeft              # the streams' folder, the same on every worker
#   prefect --no-prompt deploy --all --prefect-file deploy/prefect.yaml
#   bhpeft worker                               # on each worker, from systemd or compose
#
#   python -c "from flows.reaper import ensure_reaper as f; f()"  # once: lost rounds crash
#   python -c "from flows.notifications import ensure_all as f; f()"   # after a change in [notify]
#
# One machine needs none of this: `bhpeft up` deploys every stream with the schedule of its file.
# Use one or the other. Both name a stream's deployment watch/<stream>, and whoever deploys last
# decides how it runs.
name: bhpeft
prefect-version: 3.8.8
build: null
push: null
pull:
  - prefect.deployments.steps.set_working_directory:
      directory: "{{{{ $BHPEFT_HOME }}}}"

definitions:
  pools:
    process: &process # a process on the worker's machine
      name: {WORK_POOL}
      work_queue_name: default
      job_variables:
        env: &env
          BHPEFT_HOME: "{{{{ $BHPEFT_HOME }}}}"
          MLFLOW_TRACKING_URI: "{{{{ $MLFLOW_TRACKING_URI }}}}"
          MLFLOW_DISABLE_TELEMETRY: "true" # DO_NOT_TRACK=1 does not silence MLflow
          DO_NOT_TRACK: "1"
          OMP_WAIT_POLICY: PASSIVE
          MALLOC_ARENA_MAX: "1" # bhpeft.allocator says why
          PREFECT_FLOWS_HEARTBEAT_FREQUENCY: "30"
          PREFECT_CLIENT_RETRY_EXTRA_CODES: "500" # what a server without its database answers
  watch: &watch # one run a stream; a second one would find the same batches, so it is cancelled
    entrypoint: flows.watch.watch
    tags: [{TAG}]
    work_pool: *process
    concurrency_limit: {{limit: 1, collision_strategy: CANCEL_NEW}}

deployments:
"""

# A producer that emits the event is answered in seconds. It only wakes the watch, which looks for
# itself what is pending.
WATCH = """\
  - <<: *watch
    name: {name}
    description: {description}
    parameters: {{stream: {name}}}
{queue}{schedule}    triggers:
      - name: {name}-batch-landed
        enabled: true
        match: {{prefect.resource.id: {resource}}}
        expect: [{event}]
        parameters: {{stream: {name}}}
"""

# Rounds move it themselves; the schedule sees to what a crash or other hands left.
GROUP = """\
  - name: {group}
    entrypoint: flows.population.population
    description: {description}
    parameters: {{group: {group}, reason: {reason}, by: {by}}}
    tags: [{tag}]
    work_pool: *process
    concurrency_limit: {{limit: 1, collision_strategy: CANCEL_NEW}}
"""

FORM = """\
  - name: {name}
    entrypoint: {entrypoint}
    description: {description}
    tags: [{tag}]
    work_pool: *process
"""


def rendered(streams: Iterable[Stream]) -> str:
    """Return the file for these streams, their groups, and the flows a person starts."""
    streams = list(streams)
    entries = [
        *(_watch(stream) for stream in streams),
        *(_group(group) for group in groups_of(streams)),
        *(_form(flow) for flow in FORMS),
        _form(gc, ALL_STREAMS) + _scheduled("cron", NIGHTLY, "UTC"),
    ]
    return HEAD + "\n".join(entries)


def _watch(stream: Stream) -> str:
    queue = stream.compute.queue
    other = f"    work_pool: {{<<: *process, work_queue_name: {queue}}}\n"
    return WATCH.format(
        name=stream.name,
        description=_quoted(stream.description or f"Learns the pending batches of {stream.name}."),
        queue="" if queue == "default" else other,
        schedule=_schedule(stream),
        resource=resource_of(stream.name),
        event=LANDED,
    )


def _group(group: str) -> str:
    entry = GROUP.format(
        group=group,
        description=_quoted(population_told(group)),
        tag=TAG,
        **{name: _quoted(value) for name, value in AS_SCHEDULED.items()},
    )
    return entry + _scheduled("interval", int(HOUR.total_seconds()), "UTC", "hourly")


def _schedule(stream: Stream) -> str:
    when = stream.schedule
    seconds = int(when.seconds) if when.seconds else None
    said: dict[str, Any] = {"cron": when.cron, "rrule": when.rrule, "interval": seconds}
    for kind, value in said.items():
        if value:
            return _scheduled(kind, value, when.timezone, "by-its-file")
    return ""


def _scheduled(kind: str, value: str | int, timezone: str, slug: str = "nightly") -> str:
    words = f"{kind}: {_quoted(value)}, timezone: {_quoted(timezone)}, slug: {slug}"
    return f"    schedules:\n      - {{{words}}}\n"


def _form(flow: Flow[..., Any], name: str = ANY_STREAM) -> str:
    return FORM.format(
        name=name,
        entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
        description=_quoted((flow.description or "").strip().splitlines()[0]),
        tag=TAG,
    )


def _quoted(value: str | int) -> str:
    # A JSON value is a YAML value; braces would be read by Prefect as a variable of its own.
    return json.dumps(value, ensure_ascii=False).replace("{{", "{ {")
