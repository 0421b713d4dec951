from __future__ import annotations

from collections.abc import Callable

import pytest

from flows.watch import drain, state_of_watch


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
