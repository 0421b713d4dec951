from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.states import Completed

from flows.events import STALE
from flows.watch import MORE, drain, go_on, look, state_of_watch, watch
from tests.rounds.reviews import CONTRACT


def landing(*batches: str, endings: dict[str, str]) -> tuple[Callable, Callable, list[str]]:
    """Return `oldest` and `learn` over a list of batches; those that end well leave it."""
    waiting, learned = list(batches), []

    def oldest() -> str | None:
        return waiting[0] if waiting else None

    def learn(batch: str) -> str:
        learned.append(batch)
        ending = endings.get(batch, "Promoted")
        if ending in {"Promoted", "Refused", "Held", "Quarantined"}:
            waiting.remove(batch)
        return ending

    return oldest, learn, learned


def test_batches_are_learned_oldest_first_until_none_is_left():
    """A chain is sequential."""
    oldest, learn, _ = landing("b1", "b2", "b3", endings={})

    assert list(drain(oldest, learn)) == ["b1", "b2", "b3"]


def test_a_quarantined_batch_does_not_stop_the_ones_after_it():
    """Its round fails, the watch goes on."""
    oldest, learn, learned = landing("b1", "b2", endings={"b1": "Quarantined"})

    assert drain(oldest, learn) == {"b1": "Quarantined", "b2": "Promoted"}
    assert learned == ["b1", "b2"]


@pytest.mark.parametrize("ending", ["Failed", "Crashed"])
def test_a_batch_without_a_decision_keeps_its_place(ending: str):
    """What comes after a failed batch would otherwise be learned out of order."""
    oldest, learn, learned = landing("b1", "b2", endings={"b1": ending})

    drain(oldest, learn)

    assert learned == ["b1"]


def test_a_batch_that_comes_back_is_not_learned_again_in_the_same_watch():
    """However `pending` errs, a watch ends."""
    assert drain(lambda: "b1", lambda batch: "Promoted") == {"b1": "Promoted"}


def test_what_lands_during_a_round_is_seen_by_the_same_watch():
    """A second scheduled watch is cancelled, so the running one must look again."""
    waiting = ["b1"]

    def learn(batch: str) -> str:
        waiting.remove(batch)
        if batch == "b1":
            waiting.append("b2")
        return "Promoted"

    assert list(drain(lambda: waiting[0] if waiting else None, learn)) == ["b1", "b2"]


def test_the_watch_tells_what_became_of_each_batch():
    """Its message is the story; a failed round fails it, a held or quarantined one does not."""
    fine = state_of_watch("reviews", {"b1": "Held", "b2": "Quarantined"})
    broken = state_of_watch("reviews", {"b1": "Crashed"})

    assert (fine.type.value, fine.message) == ("COMPLETED", "reviews: b1 held, b2 quarantined")
    assert broken.type.value == "FAILED"
    assert state_of_watch("reviews", {}).name == "Nothing pending"


def test_a_watch_with_a_limit_leaves_the_rest_in_order():
    """Nothing is lost or learned twice: the next watch begins where this one ended."""
    oldest, learn, learned = landing("b1", "b2", "b3", "b4", "b5", endings={})

    assert list(drain(oldest, learn, 2)) == ["b1", "b2"]
    assert list(drain(oldest, learn, 2)) == ["b3", "b4"]
    assert list(drain(oldest, learn, 2)) == ["b5"]
    assert learned == ["b1", "b2", "b3", "b4", "b5"]


def test_a_limit_does_not_go_past_a_batch_without_a_decision():
    oldest, learn, learned = landing("b1", "b2", "b3", endings={"b1": "Failed"})

    assert drain(oldest, learn, 3) == {"b1": "Failed"}
    assert learned == ["b1"]


def test_a_watch_that_left_some_says_so():
    state = state_of_watch("reviews", {"b1": "Promoted"}, more=True)

    assert (state.name, state.type.value) == (MORE, "COMPLETED")
    assert state.message == "reviews: b1 promoted; the next watch goes on"


@pytest.mark.slow
def test_a_watch_that_left_some_queues_one_more_and_no_other_does(prefect_server: None):
    """Told twice it queues one; a watch that a person started, or that left none, queues none."""
    with get_client(sync_client=True) as client:
        watched = client.create_flow(watch)
        deployment = client.create_deployment(watched, name="some", parameters={"stream": "some"})
        ended = client.create_flow_run_from_deployment(deployment)
        by_hand = client.create_flow_run(watch, parameters={"stream": "some"})
        for run, name in ((ended, "Watched 1"), (by_hand, MORE), (ended, MORE), (ended, MORE)):
            go_on(watch, run, Completed(name=name))
        runs = [run for run in client.read_flow_runs() if run.flow_id == watched]

    assert len(runs) == 3
    (queued,) = [run for run in runs if run.id not in (ended.id, by_hand.id)]
    assert queued.deployment_id == deployment
    assert queued.parameters == {"stream": "some"}


@pytest.mark.slow
def test_a_watch_tells_that_no_batch_came_once_a_period(
    prefect_server: None, asserting_events_worker: EventsWorker, tmp_path: Path
):
    """The event is the alarm: a notification of the stream's, or any automation, hangs on it."""
    (tmp_path / "streams").mkdir()
    (tmp_path / "reviews.yaml").write_text(CONTRACT)
    (tmp_path / "streams" / "quiet.toml").write_text(
        '[data]\ncontract = "reviews.yaml"\nexpect_every = "1h"\n[model]\nbase = "x"\n'
    )

    @flow(persist_result=False)
    def looking() -> list[str]:
        return [look("quiet", str(tmp_path)).why for _ in range(2)]

    assert looking() == ["", ""]
    asserting_events_worker.drain()
    events = [event for client in AssertingEventsClient.all for event in client.events]
    (told,) = [event for event in events if event.event == STALE]
    assert told.resource.id == "bhpeft.stream.quiet"
    assert "no batch has landed yet" in told.payload["message"]
