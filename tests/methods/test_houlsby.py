from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import PreTrainedModel

from bhpeft.errors import UnsupportedModel
from bhpeft.methods import ARCHITECTURES, Houlsby, attach, swapped
from tests import tiny
from tests.methods import draws

# BatchedFallback: vmap has no rule for the CPU's flash attention and says so; it is only slow.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

Adapt = Callable[[str, Tensor], Tensor]


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "deberta"])
def test_an_adapter_starts_as_the_identity(family: str) -> None:
    """U = u = 0: a freshly attached model computes what the base computes, to the bit."""
    minibatch = tiny.minibatch()
    build = tiny.FAMILIES.get(family, tiny.deberta)
    plain = build()(**minibatch).last_hidden_state
    model = build()
    attach(model, [Houlsby()], tiny.generator())
    assert torch.equal(model(**minibatch).last_hidden_state, plain)


def _by_hand_bert(layer: nn.Module, hidden: Tensor, adapt: Adapt) -> Tensor:
    attended = layer.attention.self(hidden)[0]
    y = adapt("attention", layer.attention.output.dense(attended))
    x = layer.attention.output.LayerNorm(y + hidden)
    y = adapt("ffn", layer.output.dense(layer.intermediate(x)))
    return layer.output.LayerNorm(y + x)


def _by_hand_distilbert(layer: nn.Module, hidden: Tensor, adapt: Adapt) -> Tensor:
    x = layer.sa_layer_norm(adapt("attention", layer.attention(hidden)[0]) + hidden)
    return layer.output_layer_norm(adapt("ffn", layer.ffn(x)) + x)


def _by_hand_gpt2(layer: nn.Module, hidden: Tensor, adapt: Adapt) -> Tensor:
    x = hidden + adapt("attention", layer.attn(layer.ln_1(hidden))[0])
    return x + adapt("ffn", layer.mlp(layer.ln_2(x)))


@pytest.mark.parametrize(
    ("build", "layer_of", "by_hand"),
    [
        (tiny.bert, lambda model: model.encoder.layer[0], _by_hand_bert),
        (tiny.distilbert, lambda model: model.transformer.layer[0], _by_hand_distilbert),
        (tiny.gpt2, lambda model: model.h[0], _by_hand_gpt2),
    ],
)
def test_the_layer_is_the_papers_figure(
    build: Callable[[int], PreTrainedModel],
    layer_of: Callable[[PreTrainedModel], nn.Module],
    by_hand: Callable[[nn.Module, Tensor, Adapt], Tensor],
) -> None:
    """Behind each projection, before the residual connection, written out layer by layer."""
    model = build(1)
    sites = attach(model, [Houlsby(bottleneck=5)], tiny.generator())
    weights = tiny.draw(dict(sites.shapes))

    def adapt(place: str, y: Tensor) -> Tensor:
        down, down_bias, up, up_bias = (
            weights[f"0.{place}.houlsby.{leaf}"] for leaf in ("down", "down_bias", "up", "up_bias")
        )
        return y + gelu(y @ down.T + down_bias) @ up.T + up_bias

    hidden = torch.randn(2, 6, 32, generator=tiny.generator())
    with swapped(sites, weights):
        found = layer_of(model)(hidden)
    expected = by_hand(layer_of(build(1)), hidden, adapt)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, layer_of(build(1))(hidden), atol=1e-2)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_folded_draws_equal_looped_draws_and_vmap(family: str) -> None:
    """Weights and biases of both sides are drawn."""
    draws.assert_folded_is_looped_is_vmapped(draws.adapted(family, Houlsby(bottleneck=3)))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_does_not_change_the_logits(family: str) -> None:
    draws.assert_padding_changes_nothing(draws.adapted(family, Houlsby(bottleneck=3)))


def test_the_number_of_weights_is_the_papers() -> None:
    """2md + d + m an adapter, two adapters a layer."""
    sites = attach(tiny.bert(1), [Houlsby(bottleneck=5)], tiny.generator())
    total = sum(tensor.numel() for tensor in sites.values().values())
    assert total == 2 * (2 * 5 * 32 + 32 + 5)


def test_an_architecture_that_names_no_projections_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = replace(ARCHITECTURES["bert"], attention_projection=None)
    monkeypatch.setitem(ARCHITECTURES, "bert", bare)
    with pytest.raises(UnsupportedModel, match=r"no projections to follow in a BertLayer"):
        attach(tiny.bert(), [Houlsby()], tiny.generator())


@pytest.mark.parametrize("name", ["linear", "core"])
def test_between_frozen_factors_it_is_linear_in_what_is_learned(name: str) -> None:
    """f(w1 + w2) = f(w1) + f(w2), u included: d has no place beside a D that stands still."""
    sites = attach(tiny.bert(1), [Houlsby(3, parameterisation=name)], tiny.generator())
    leaves = {key.split(".")[-1] for key in sites}
    assert leaves == {"linear": {"up", "up_bias"}, "core": {"core", "up_bias"}}[name]
    module = sites[next(iter(sites))].module
    y = torch.randn(4, 32, generator=tiny.generator(2))
    one, two = tiny.draw(dict(sites.shapes), seed=3), tiny.draw(dict(sites.shapes), seed=4)

    def added(weights: dict[str, Tensor]) -> Tensor:
        with torch.no_grad(), swapped(sites, weights):
            found: Tensor = module(y)
        return found

    both = added({key: one[key] + two[key] for key in one})
    torch.testing.assert_close(both, added(one) + added(two), atol=1e-5, rtol=1e-5)
    assert float(both.abs().max()) > 0.1
