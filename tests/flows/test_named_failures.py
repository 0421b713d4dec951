"""A round that is too slow, diverges or runs out of memory fails by name; three in a row park."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker

from bhpeft.rounds import pending
from bhpeft.rounds.release import set_aside_batches
from chaos.world import World, furnish, opened
from flows.events import ROUND
from flows.round import round_flow
from flows.watch import watch

pytestmark = pytest.mark.usefixtures("prefect_server")

# What of the stream file is changed, so that the next round fails for real. No machine has the
# address space for the last one, whatever its system promises before it has it.
CAUSES = {
    "TimeLimit": ("epochs = 1", "epochs = 1\nmax_seconds = 1e-6"),
    "Diverged": ("learning_rate = 5e-3", "learning_rate = 1e30"),
    "OutOfMemory": ("rank = 2", "rank = 10_000_000_000_000"),
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a stream in which two batches wait."""
    batches = ["good-1", "good-2"]
    furnish(tmp_path, batches)
    found = opened(tmp_path)
    for batch in batches:
        found.land(batch)
    return found


def waiting(world: World) -> list[str]:
    return [batch.batch_id for batch in pending(world.stream, world.registry)]


def told(worker: EventsWorker) -> list[str]:
    worker.drain()
    events = [event for client in AssertingEventsClient.all for event in client.events]
    return [event.event for event in events if event.event.startswith(ROUND)]


def test_each_cause_has_its_name_and_a_back_off_and_the_third_parks_the_batch(
    world: World, asserting_events_worker: EventsWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the flow, by what really happens: no step is replaced and no error raised for it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file, home = world.home / "streams" / "chaos.toml", str(world.home)
    fine = file.read_text()
    for cause, (sane, mad) in CAUSES.items():
        assert waiting(world) == ["good-1", "good-2"]
        file.write_text(fine.replace(sane, mad))
        state = round_flow(stream="chaos", batch="good-1", home=home, return_state=True)
        assert state.is_failed()
        assert cause in str(state.message)
        assert "the batch stays pending" in str(state.message)
        if cause != "OutOfMemory":
            file.write_text(fine)
            early = watch(stream="chaos", home=home, return_state=True)
            assert early.name == "Waiting"
            assert f"good-1 failed ({cause}) and is tried again at" in str(early.message)

    assert waiting(world) == ["good-2"]
    book = world.registry.book("chaos")
    assert [failure.kind for failure in book.failures] == list(CAUSES)
    (parked,) = set_aside_batches(world.stream, book)
    assert (parked.batch_id, parked.state) == ("good-1", "parked")
    assert told(asserting_events_worker) == [f"{ROUND}failed"] * 3 + [f"{ROUND}parked"]
    file.write_text(fine)
    assert watch(stream="chaos", home=home, return_state=True).name == "Watched 1"
    champion = world.registry.champion("chaos")
    assert champion is not None
    assert champion.batch_ids == ("good-2",)
