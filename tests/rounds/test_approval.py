"""A person decides about a held candidate: later, once, and never twice the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bhpeft.errors import NotAllowed, NotWaiting
from bhpeft.operation import Approval
from bhpeft.rounds import approve, reject, turn
from bhpeft.rounds.approval import EXPIRY
from tests.rounds.conftest import Chain, Steps


def careful(chain: Chain, **rules: Any) -> Chain:
    """Let every promotion of the stream need a person."""
    return chain.changed(approval=Approval(required=True, **rules))


def decide(act: Any, chain: Chain, number: int, by: str = "anna") -> Any:
    return act(chain.stream, number, chain.registry, by=by, reason="I looked")


def due(chain: Chain, **options: Any) -> list[str]:
    return [b.batch_id for b in turn(chain.stream, chain.registry, **options).batches]


def test_a_promotion_that_needs_a_person_waits_until_one_approves(chain: Chain) -> None:
    """The gates pass, the champion stays; approval moves it once and says who and why."""
    chain = careful(chain)
    outcome = chain.learn(chain.deliver("b1"))
    assert (outcome.decision, outcome.reason) == (
        "held",
        "approval: every promotion needs a person",
    )
    assert chain.champion is None
    assert chain.waiting == []

    first, again = decide(approve, chain, 1), decide(approve, chain, 1)

    assert first == again
    assert (first.kind, first.who, first.why, first.to_version) == (
        "promote", "anna", "I looked", 1,
    )  # fmt: skip
    assert chain.champion is not None
    assert (chain.champion.number, chain.champion.decision) == (1, "promoted")
    assert [m.kind for m in chain.registry.history(chain.stream.name)] == ["hold", "promote"]


def test_a_rejected_candidate_takes_its_batch_with_it(chain: Chain) -> None:
    """It is refused, not pending, and can neither be approved nor waited for any more."""
    chain = careful(chain)
    chain.learn(chain.deliver("b1"))
    assert decide(reject, chain, 1) == decide(reject, chain, 1)
    assert chain.waiting == due(chain) == []
    with pytest.raises(NotWaiting, match=r"v1 does not wait.*'refused'.*bhpeft release"):
        decide(approve, chain, 1)
    assert chain.champion is None


def test_new_batches_wait_behind_a_candidate_that_waits_for_a_person(chain: Chain) -> None:
    """In order: what came later must not be learned first. Approved, the next starts from it."""
    chain = careful(chain)
    chain.learn(chain.deliver("b1", day=1))
    later = chain.deliver("b2", day=2)
    found = turn(chain.stream, chain.registry)
    assert (found.batches, [b.batch_id for b in found.pending]) == ((), ["b2"])
    assert found.why.startswith("v1 waits for a person's decision until 20")

    decide(approve, chain, 1)

    assert due(chain) == ["b2"]
    assert chain.learn(later).prior_version == 1


def test_a_new_batch_may_put_the_waiting_candidate_aside(chain: Chain) -> None:
    """Its batch is pending again, before the new one, and learned anew; the log says so."""
    chain = careful(chain, new_batch="supersede")
    first = chain.deliver("b1", day=1)
    chain.learn(first)
    assert due(chain) == []  # nothing new: it goes on waiting
    chain.deliver("b2", day=2)
    assert due(chain, by="watch") == ["b1", "b2"]
    last = chain.registry.history(chain.stream.name)[-1]
    assert (last.kind, last.to_version, last.who) == ("supersede", 1, "watch")
    assert last.why == "b2 landed before a person decided"
    for act in (approve, reject):
        with pytest.raises(NotWaiting, match="'superseded'"):
            decide(act, chain, 1)

    steps = Steps()
    assert chain.learn(first, steps).version == 2
    assert "train_candidate" in steps.results


def test_a_decision_nobody_makes_is_a_refusal_after_the_streams_patience(chain: Chain) -> None:
    """Nothing is promoted unseen, the stream goes on, and a person can release the batch."""
    chain = careful(chain, expires="2d")
    batch = chain.deliver("b1", day=1)
    chain.learn(batch)
    chain.deliver("b2", day=2)
    now = datetime.now(UTC)
    assert due(chain, now=now + timedelta(days=1)) == []
    assert due(chain, now=now + timedelta(days=3)) == ["b2"]
    last = chain.registry.history(chain.stream.name)[-1]
    assert (last.kind, last.who, last.why) == ("refuse", EXPIRY, "nobody decided within 2d")
    assert chain.champion is None

    chain.registry.release(chain.stream.name, [batch.digest], by="anna", reason="late, but good")
    assert due(chain) == ["b1", "b2"]


def test_approval_can_be_asked_of_somebody_else_than_who_ran_the_round(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pairs of eyes; with a log-in at the registry the name is the account's."""
    chain = careful(chain, second_person=True)
    chain.learn(chain.deliver("b1"))
    with pytest.raises(NotAllowed, match="second person's approval; found a test"):
        decide(approve, chain, 1, by="a test")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ben")
    with pytest.raises(NotAllowed, match="'anna', logged in at the registry as 'ben'"):
        decide(approve, chain, 1, by="anna")
    assert chain.champion is None
    assert decide(approve, chain, 1, by="ben").to_version == 1
