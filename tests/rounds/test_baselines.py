from __future__ import annotations

import pytest

from bhpeft.learning.predict import Predictor
from tests.rounds.conftest import Chain


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ensemble", "temperature", "laplace", "map", "mc_dropout", "tfb", "ivon"]
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
    said = predictor.probabilities(["a lovely film", "a dreadful book"], 2)
    assert len(said) == {"map": 1, "temperature": 1}.get(name, 2)


@pytest.mark.slow
def test_the_papers_preset_learns_through_its_network_and_goes_on_without_it(chain: Chain) -> None:
    """Its own methods and settings; what the stream says of one counts more; λ is logged."""
    lengths = {"prefix": {"length": 4}}
    chain = chain.with_learning(variant="bh_peft_paper", methods=(), settings=lengths)
    found = []
    for number in (1, 2):
        outcome = chain.learn(chain.deliver(f"b{number}", day=number))
        assert outcome.decision == "promoted", outcome.reason
        found.append((outcome.metrics["training/lambda"], chain.state(number)))
    for implied, state in found:
        assert state.spec.kl_weight == 1e-3
        assert state.spec.methods["prefix"] == {"length": 4, "layers": None, "projection": 512}
        assert {name.split(".", 2)[2] for name in state.posterior.shapes} == {
            "adapter.down", "prefix.key", "prefix.value",
        }  # fmt: skip
        assert 0 < implied < 1e-4
    (one, first), (two, second) = found
    # Two adapters' worth fewer weights in the network than in its keys and values, or more: the
    # published λ is another one in every round.
    assert one != two
    assert first.posterior.shapes == second.posterior.shapes
