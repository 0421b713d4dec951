from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State

from bhpeft.errors import Diverged, RegistryUnreachable
from bhpeft.rounds import Turn
from flows.locks import ensure_limits, promotion_lock, round_lock
from flows.outcomes import state_of
from flows.round import conduct, run_name, showing
from flows.steps import step_runner

pytestmark = pytest.mark.usefixtures("prefect_server")


@dataclass(frozen=True)
class Ending:
    """An outcome as `rounds.learn` returns it."""

    batch_id: str
    decision: str
    stream: str = "reviews"
    version: int | None = 2
    prior_version: int | None = 1
    metrics: dict[str, Any] = field(default_factory=lambda: {"accuracy": 0.8125})
    verdicts: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"gate": "nll", "outcome": "pass", "value": 0.4, "limit": 0.5, "reason": "0.4 < 0.5"}
        ]
    )
    drift: bool | None = False
    reason: str = "all gates passed"
    seconds: float = 1.0
    run_url: str | None = "http://127.0.0.1:5000/#/experiments/1/runs/2"


def batches(*names: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(batch_id=name) for name in names]


def ends(decision: str):
    return lambda batch, run, lock, progress: Ending(batch.batch_id, decision)


def run_round(learn: Any, waiting: Any = None, batch: str | None = "b1") -> State[Any]:
    @flow(name="round", flow_run_name=run_name)
    def tiny_round(stream: str, batch: str | None) -> State[Any]:
        def turn() -> Turn:
            found = tuple(waiting if waiting is not None else batches("b1", "b2"))
            return Turn(found, found)

        return conduct(SimpleNamespace(name=stream), batch, turn, learn, {"fetch"})

    return tiny_round("reviews", batch, return_state=True)


@pytest.mark.parametrize(
    ("decision", "name", "kind"),
    [
        ("promoted", "Promoted", "COMPLETED"),
        ("refused", "Refused", "COMPLETED"),
        ("held", "Held", "COMPLETED"),
        ("quarantined", "Quarantined", "FAILED"),
    ],
)
def test_the_terminal_state_says_stream_batch_and_decision(decision: str, name: str, kind: str):
    """A reviewer reads what happened without opening the run; only a quarantined batch fails it."""
    state = state_of(Ending("b1", decision))

    assert (state.name, state.type.value) == (name, kind)
    assert state.message == f"reviews · b1 · {decision}: all gates passed"


def test_the_outcome_is_the_result_of_the_run():
    """Whoever called the flow gets the outcome itself, not its text."""
    assert run_round(ends("promoted")).result() == Ending("b1", "promoted")


def test_a_run_is_named_after_stream_and_batch():
    """The list of runs tells them apart."""
    state = run_round(ends("promoted"))

    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).name == "reviews · b1"


def test_without_a_batch_the_oldest_pending_one_is_learned():
    """The oldest is the first of `pending`."""
    assert run_round(ends("promoted"), batch=None).result().batch_id == "b1"


def test_a_batch_no_longer_pending_is_not_learned():
    """A queued parameter is a wish: what is pending is decided when the run has the lock."""

    def must_not_run(**_: Any) -> None:
        raise AssertionError("learned a batch twice")

    state = run_round(must_not_run, waiting=batches("b2"))

    assert (state.name, state.type.value) == ("Nothing pending", "COMPLETED")


def test_an_artifact_shows_the_gates_and_links_to_mlflow():
    """The page holds decision, verdicts and the address of the MLflow run."""
    run = run_round(ends("refused")).state_details.flow_run_id

    with get_client(sync_client=True) as client:
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        pages = {a.key: a.data for a in client.read_artifacts(artifact_filter=only)}
    assert "reviews · b1: refused" in pages["reviews-b1"]
    assert "| nll | ✓ pass | 0.4 | 0.5 | 0.4 < 0.5 |" in pages["reviews-b1"]
    assert "http://127.0.0.1:5000/#/experiments/1/runs/2" in pages["reviews-b1-mlflow"]


def test_an_unexpected_error_fails_the_run_with_its_text():
    """A round that diverged has no decision; its error is the state's message."""

    def diverges(run: Any, **_: Any) -> None:
        raise Diverged("The loss is NaN at step 3")

    state = run_round(diverges)

    assert (state.name, state.type.value) == ("Failed", "FAILED")
    assert "The loss is NaN at step 3" in state.message


def test_progress_reaches_the_round_without_being_a_parameter():
    """A progress bar in this process hears of the steps."""
    heard: list[int] = []

    def reports(batch: Any, run: Any, lock: Any, progress: Any) -> Ending:
        progress(7)
        return Ending(batch.batch_id, "promoted")

    with showing(heard.append):
        run_round(reports)
    assert heard == [7]


def test_only_input_and_output_steps_are_retried():
    """Fetching is tried again when the registry does not answer; training is not."""
    tries: list[str] = []

    def fetch() -> str:
        tries.append("fetch")
        if len(tries) < 3:
            raise RegistryUnreachable("MLflow does not answer")
        return "posterior"

    def fit() -> None:
        tries.append("fit")
        raise RegistryUnreachable("MLflow does not answer")

    @flow
    def steps() -> None:
        run = step_runner({"fetch"}, first_delay=0.01)
        assert run(fetch) == "posterior"
        run(fit)

    with pytest.raises(RegistryUnreachable):
        steps()
    assert tries == ["fetch", "fetch", "fetch", "fit"]


def test_an_error_that_waiting_does_not_mend_is_not_retried():
    """A missing file or a broken posterior stays so: the step fails at once."""
    tries: list[int] = []

    def fetch() -> None:
        tries.append(1)
        raise FileNotFoundError("posterior.safetensors")

    @flow
    def steps() -> None:
        step_runner({"fetch"}, first_delay=0.01)(fetch)

    with pytest.raises(FileNotFoundError):
        steps()
    assert tries == [1]


@pytest.mark.parametrize("lock", [round_lock, promotion_lock])
def test_a_lock_that_was_never_created_lets_nobody_pass(lock: Any):
    """Prefect's default passes silently where the limit is missing; ours is strict."""
    from prefect.concurrency._asyncio import ConcurrencySlotAcquisitionError

    with pytest.raises(ConcurrencySlotAcquisitionError), lock("nobody-made-this"):
        raise AssertionError("passed without a lock")


def test_rounds_of_one_stream_wait_for_each_other():
    """Two holders of one stream's lock never overlap."""
    ensure_limits("serial")
    spans: list[tuple[float, float]] = []

    def hold() -> None:
        with round_lock("serial"):
            begun = time.monotonic()
            time.sleep(0.3)
            spans.append((begun, time.monotonic()))

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    first, second = sorted(spans)
    assert first[1] <= second[0]


def test_another_stream_is_not_waited_for():
    """Locks are per stream: holding one leaves the other free."""
    for stream in ("left", "right"):
        ensure_limits(stream)

    with round_lock("left"), round_lock("right", timeout=5):
        pass


def test_two_that_create_the_limits_at_once_both_have_them(monkeypatch: pytest.MonkeyPatch):
    """Prefect looks and then creates: what another made in between is as good as one's own."""
    looked, look = threading.Barrier(2), SyncPrefectClient.read_global_concurrency_limit_by_name

    def together(client: SyncPrefectClient, name: str) -> Any:
        try:
            return look(client, name)
        finally:
            looked.wait(timeout=60)

    monkeypatch.setattr(SyncPrefectClient, look.__name__, together)
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(copy_context().run, ensure_limits, "together") for _ in range(2)]
    assert [one.exception() for one in made] == [None, None]


def test_creating_the_limits_twice_changes_nothing():
    """`ensure_limits` runs before every round."""
    ensure_limits("twice")
    ensure_limits("twice")

    with promotion_lock("twice"), get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name("bhpeft-promote-twice").limit == 1
