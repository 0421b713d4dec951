from __future__ import annotations

import pytest
import torch
from torch.nn.functional import relu

from bhpeft.methods import ParallelAdapter, attach, swapped
from tests import tiny


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "deberta"])
def test_an_adapter_starts_as_the_identity(family):
    """U = 0: a freshly attached model computes what the base computes."""
    minibatch = tiny.minibatch()
    build = tiny.FAMILIES.get(family, tiny.deberta)
    plain = build()(**minibatch).last_hidden_state
    model = build()
    attach(model, [ParallelAdapter()], tiny.generator())
    assert torch.equal(model(**minibatch).last_hidden_state, plain)


def _added(x, weights):
    down, up = weights["0.ffn.adapter.down"], weights["0.ffn.adapter.up"]
    return 4.0 * relu(x @ down.T) @ up.T


def _by_hand_bert(layer, hidden, weights):
    x = layer.attention(hidden)[0]
    inner = layer.output.dense(layer.intermediate(x)) + _added(x, weights)
    return layer.output.LayerNorm(inner + x)


def _by_hand_distilbert(layer, hidden, weights):
    x = layer.sa_layer_norm(layer.attention(hidden)[0] + hidden)
    inner = layer.ffn.lin2(layer.ffn.activation(layer.ffn.lin1(x))) + _added(x, weights)
    return layer.output_layer_norm(inner + x)


def _by_hand_gpt2(layer, hidden, weights):
    hidden = hidden + layer.attn(layer.ln_1(hidden))[0]
    x = layer.ln_2(hidden)
    inner = layer.mlp.c_proj(layer.mlp.act(layer.mlp.c_fc(x))) + _added(x, weights)
    return hidden + inner


@pytest.mark.parametrize(
    ("build", "layer_of", "by_hand"),
    [
        (tiny.bert, lambda model: model.encoder.layer[0], _by_hand_bert),
        (tiny.distilbert, lambda model: model.transformer.layer[0], _by_hand_distilbert),
        (tiny.gpt2, lambda model: model.h[0], _by_hand_gpt2),
    ],
)
def test_the_sum_is_the_papers_formula(build, layer_of, by_hand):
    """FFN(x) + 4 · U relu(D x), before the residual connection, written out layer by layer."""
    model = build(1)
    sites = attach(model, [ParallelAdapter(bottleneck=5)], tiny.generator())
    weights = tiny.draw(sites.shapes)
    hidden = torch.randn(2, 6, 32, generator=tiny.generator())
    with swapped(sites, weights):
        found = layer_of(model)(hidden)
    expected = by_hand(layer_of(build(1)), hidden, weights)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, layer_of(build(1))(hidden), atol=1e-2)
