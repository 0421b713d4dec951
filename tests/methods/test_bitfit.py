from __future__ import annotations

import pytest
import torch

from bhpeft.errors import UnsupportedModel
from bhpeft.methods import BitFit, Houlsby, LoRA, Method, attach, swapped
from tests import tiny
from tests.methods import draws

BIASED = ("bert", "roberta", "distilbert", "gpt2")

# BatchedFallback: vmap has no rule for the CPU's flash attention and says so; it is only slow.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@pytest.mark.parametrize("family", BIASED)
def test_bitfit_starts_as_the_identity(family: str) -> None:
    """δ = 0: a freshly attached model computes what the base computes, to the bit."""
    minibatch = tiny.minibatch()
    plain = tiny.FAMILIES[family]()(**minibatch).last_hidden_state
    model = tiny.FAMILIES[family]()
    attach(model, [BitFit()], tiny.generator())
    assert torch.equal(model(**minibatch).last_hidden_state, plain)


@pytest.mark.parametrize("others", [[], [LoRA(rank=2)]], ids=["alone", "with-lora"])
@pytest.mark.parametrize("family", BIASED)
def test_a_delta_is_a_changed_bias(family: str, others: list[Method]) -> None:
    """Writing b + δ into the base's own biases gives the same hidden states, every one of them."""
    minibatch = tiny.minibatch()
    model, edited = tiny.FAMILIES[family](), tiny.FAMILIES[family]()
    sites = attach(model, [BitFit(), *others], tiny.generator())
    own = {name for name, _ in edited.named_parameters() if _in_layers(name) and "bias" in name}
    deltas = {n: t for n, t in tiny.draw(dict(sites.shapes)).items() if "bitfit" in n}
    assert len(deltas) == len(own)
    for name, delta in deltas.items():
        layer, path = name.removesuffix(".bitfit.delta").split(".", 1)
        bias = next(
            n for n in own if n.endswith(f".{layer}.{path}.bias") or n == f"h.{layer}.{path}.bias"
        )
        edited.get_parameter(bias).data += delta
    with swapped(sites, deltas):
        found = model(**minibatch).last_hidden_state
    torch.testing.assert_close(found, edited(**minibatch).last_hidden_state, atol=1e-5, rtol=1e-5)


def _in_layers(name: str) -> bool:
    return name.startswith(("encoder.layer.", "transformer.layer.", "h."))


@pytest.mark.parametrize("methods", [[BitFit()], [BitFit(), LoRA(), Houlsby()]])
@pytest.mark.parametrize("family", BIASED)
def test_folded_draws_equal_looped_draws_and_vmap(family: str, methods: list[Method]) -> None:
    """A drawn bias reaches the rows of its draw, alone and in a union."""
    draws.assert_folded_is_looped_is_vmapped(draws.adapted(family, *methods))


@pytest.mark.parametrize("family", BIASED)
def test_padding_does_not_change_the_logits(family: str) -> None:
    draws.assert_padding_changes_nothing(draws.adapted(family, BitFit()))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_a_union_does_not_depend_on_the_order_of_its_methods(order: list[int]) -> None:
    """LoRA replaces modules that the others hook onto: it comes first, wherever it is named."""
    methods = [LoRA(target_modules=("dense",)), BitFit(), Houlsby()]
    minibatch, outputs = tiny.minibatch(), []
    for chosen in (methods, [methods[index] for index in order]):
        model = tiny.bert()
        sites = attach(model, chosen, tiny.generator())
        shapes = {name: sites.shapes[name] for name in sorted(sites.shapes)}
        with swapped(sites, tiny.draw(shapes)):
            outputs.append(model(**minibatch).last_hidden_state)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


def test_the_papers_smaller_variant_names_its_biases() -> None:
    """Query and the feed-forward block's inner bias: their b_q and b_m2."""
    sites = attach(
        tiny.bert(1), [BitFit(target_modules=("query", "intermediate.dense"))], tiny.generator()
    )
    assert sites.shapes == {
        "0.attention.self.query.bitfit.delta": (32,),
        "0.intermediate.dense.bitfit.delta": (48,),
    }


@pytest.mark.parametrize("family", ["llama", "modernbert"])
def test_a_model_without_biases_is_named(family: str) -> None:
    """Nothing to train is an error, not an empty posterior."""
    with pytest.raises(UnsupportedModel, match=r"no biases to train in a \w+Layer.*use lora"):
        attach(tiny.FAMILIES[family](), [BitFit()], tiny.generator())


def test_a_target_without_a_bias_lists_those_that_have_one() -> None:
    with pytest.raises(UnsupportedModel, match=r"'q_proj' has no bias.*attention\.self\.query"):
        attach(tiny.bert(), [BitFit(target_modules=("q_proj",))], tiny.generator())
