"""A stream that asks for several processes has rounds like any other, trained by torchrun."""

from __future__ import annotations

import pytest

from bhpeft.learning.fit import fit
from bhpeft.learning.machines import Meeting
from bhpeft.learning.torchrun import Torchrun
from bhpeft.operation import Compute
from bhpeft.rounds.training import trainer_of
from tests.rounds.conftest import Chain, Steps


@pytest.mark.slow
def test_a_round_on_two_processes_makes_one_version_and_moves_the_champion(chain: Chain) -> None:
    """Only the round's own process writes; the next round, on one, goes on from there."""
    shared = chain.changed(compute=Compute(processes=2))
    steps = Steps()
    outcome = shared.learn(chain.deliver("first"), steps)
    assert outcome.decision == "promoted"
    assert [version.number for version in chain.versions] == [1]
    assert steps.results["train_candidate"].fitted.steps > 0
    assert chain.learn(chain.deliver("second", day=1)).version == 2


def test_one_process_trains_where_it_is(chain: Chain) -> None:
    assert trainer_of(chain.stream) is fit


def test_a_base_is_shared_among_several_or_refused() -> None:
    with pytest.raises(ValueError, match="needs processes = 2 or more"):
        Compute(shard=True)


def test_machines_meet_where_the_rounds_machine_says(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BHPEFT_RENDEZVOUS", "trainer-0:1234")
    shared = chain.changed(compute=Compute(machines=3, processes=4, shard=True))
    assert trainer_of(shared.stream) == Torchrun(4, True, Meeting(3, "trainer-0:1234"))
    assert trainer_of(chain.changed(compute=Compute(processes=4)).stream) == Torchrun(4)
