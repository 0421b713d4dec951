"""End the runs that a server's last stop cut off, so that their places are free again.

A run whose process died with its server stays Running or Pending for ever, and holds its
deployment's one slot: every later run would be cancelled in its favour. Locks that such a run held
need no help: their leases are kept on disk (flows/environment.py) and run out within a minute.
"""

from __future__ import annotations

import logging

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Crashed

logger = logging.getLogger(__name__)

FLOWS = ("watch", "round", "rollback", "replay", "approve")
UNENDED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def end_lost_runs() -> list[str]:
    """Mark every unended run of bhpeft's flows Crashed; return their names.

    To be called when a server of ours has just started: nothing can be running on it yet.
    """
    unended = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNENDED)))
    ours = FlowFilter(name=FlowFilterName(any_=list(FLOWS)))
    message = "Its server was stopped while it ran; its batch is pending again."
    with get_client(sync_client=True) as client:
        lost = client.read_flow_runs(flow_filter=ours, flow_run_filter=unended)
        for run in lost:
            try:
                client.set_flow_run_state(run.id, Crashed(message=message))
            except PrefectHTTPStatusError as problem:
                # Prefect cannot end a run whose deployment somebody deleted; it blocks nobody.
                logger.warning("run %s of an earlier server cannot be ended: %s", run.name, problem)
    return [run.name for run in lost]
