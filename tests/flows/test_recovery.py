from __future__ import annotations

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.states import Cancelled, Pending, Running

from flows.deployments import ONE_AT_A_TIME
from flows.recovery import end_lost_runs

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_run_cut_off_by_a_stop_gives_its_place_back():
    """Else the dead run would hold its deployment's one slot, and every later run be cancelled."""

    @flow(name="watch")
    def watch() -> None:
        """Stand for the real one: only its runs' states matter here."""

    end_lost_runs()  # Tests that came before on this server may have left some.
    deployment = RunnerDeployment.from_flow(watch, "lost", concurrency_limit=ONE_AT_A_TIME).apply()
    with get_client(sync_client=True) as client:
        lost, later = (client.create_flow_run_from_deployment(deployment) for _ in range(2))
        for state in (Pending(), Running()):
            client.set_flow_run_state(lost.id, state)
        assert client.read_deployment(deployment).global_concurrency_limit.active_slots == 1

        assert end_lost_runs() == [lost.name]

        assert client.read_flow_run(lost.id).state.name == "Crashed"
        client.set_flow_run_state(later.id, Pending())
        assert client.read_flow_run(later.id).state.name == "Pending"
        client.set_flow_run_state(later.id, Cancelled())


def test_runs_of_other_peoples_flows_are_left_alone():
    """A server may serve more than bhpeft."""

    @flow(name="nightly-report")
    def report() -> list[str]:
        return end_lost_runs()

    assert report() == []
