from __future__ import annotations

import pytest

from bhpeft.learning.predict import Predictor
from tests.rounds.conftest import Chain


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ensemble", "temperature", "laplace", "map", "mc_dropout", "ivon"]
)
def test_a_baseline_goes_through_two_rounds_the_registry_and_predictions(
    chain: Chain, name: str
) -> None:
    """One line of the stream file chooses it; the second round continues from the first."""
    data = chain.stream.data.model_copy(update={"selection": 0.3})
    chain = chain.with_learning(variant=name).changed(data=data)
    for number in (1, 2):
        outcome = chain.learn(chain.deliver(f"b{number}", day=number))
        assert outcome.decision == "promoted", outcome.reason
    state = chain.state(2)
    assert (state.spec.variant, len(state.spec.absorbed)) == (name, 2)
    assert state.spec.members == (3 if name == "ensemble" else 1)
    assert (state.spec.temperature != 1.0) == (name == "temperature")
    predictor = Predictor.load(chain._files(2))
    said = predictor.probabilities(["a lovely film", "a dreadful book"])
    assert len(said) == {"map": 1, "temperature": 1}.get(name, 2)
