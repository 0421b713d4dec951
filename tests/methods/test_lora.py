from __future__ import annotations

import copy

import pytest
import torch

from bhpeft.errors import UnsupportedModel
from bhpeft.methods import ARCHITECTURES, LoRA, attach, swapped
from bhpeft.methods.lora import LoRALinear, linear_sizes
from tests import tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_lora_starts_as_the_identity(family):
    """B = 0: a freshly attached model computes what the base computes, to the bit."""
    minibatch = tiny.minibatch()
    plain = tiny.FAMILIES[family]()(**minibatch).last_hidden_state
    model = tiny.FAMILIES[family]()
    attach(model, [LoRA()], tiny.generator())
    assert torch.equal(model(**minibatch).last_hidden_state, plain)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_lora_equals_the_merged_weight(family):
    """W + (alpha / rank) B A in the base's own linear modules gives the same hidden states."""
    minibatch = tiny.minibatch()
    model = tiny.FAMILIES[family]()
    sites = attach(model, [LoRA(rank=3, alpha=6.0)], tiny.generator())
    weights = tiny.draw(sites.shapes)
    with swapped(sites, weights):
        found = model(**minibatch).last_hidden_state
    merged = copy.deepcopy(model)
    modules = [m for m in merged.modules() if isinstance(m, LoRALinear)]
    names = [name for name in weights if name.endswith("lora.a")]
    for module, name in zip(modules, names, strict=True):
        added = 2.0 * weights[name.removesuffix("a") + "b"] @ weights[name]
        weight = module.base.weight
        weight += added if weight.shape == added.shape else added.T
        module.active = False
    torch.testing.assert_close(merged(**minibatch).last_hidden_state, found, atol=1e-5, rtol=1e-5)


def test_query_and_value_are_the_default_targets():
    """As in the paper, and named as Hugging Face names them."""
    built = {kind: tiny.of_kind(kind) for kind in ARCHITECTURES}
    targets = {
        kind: {name.split(".")[1] for name in attach(model, [LoRA()], tiny.generator())}
        for kind, model in built.items()
    }
    assert targets["bert"] == targets["roberta"] == {"query", "value"}
    assert targets["distilbert"] == {"q_lin", "v_lin"}
    assert targets["llama"] == {"q_proj", "v_proj"}
    assert targets["qwen2"] == targets["qwen3"] == targets["mistral"] == targets["llama"]
    assert targets["deberta-v2"] == {"query_proj", "value_proj"}
    assert targets["modernbert"] == {"Wqkv"}
    assert targets["gpt2"] == {"c_attn"}


def test_a_target_that_occurs_twice_in_a_layer_is_named_by_its_path():
    """BERT's `dense` is three modules; each keeps a name of its own."""
    sites = attach(tiny.bert(1), [LoRA(target_modules=("dense",))], tiny.generator())
    assert [name for name in sites if name.endswith(".a")] == [
        "0.attention.output.dense.lora.a",
        "0.intermediate.dense.lora.a",
        "0.output.dense.lora.a",
    ]


def test_gpt2s_transposed_linear_is_understood():
    """Its Conv1D keeps (in, out); the added map has the same ends."""
    model = tiny.gpt2(1)
    assert linear_sizes(model.h[0].mlp.c_fc) == (32, 48)
    sites = attach(model, [LoRA(rank=2, target_modules=("c_fc",))], tiny.generator())
    assert sites.shapes == {"0.c_fc.lora.a": (2, 32), "0.c_fc.lora.b": (48, 2)}


def test_an_unknown_target_lists_the_linear_modules():
    """A target from another architecture is the usual mistake."""
    with pytest.raises(UnsupportedModel, match=r"'q_proj' is not in a BertLayer.*query"):
        attach(tiny.bert(), [LoRA(target_modules=("q_proj",))], tiny.generator())


def test_a_target_that_is_no_linear_module_is_refused():
    """A LayerNorm cannot carry a low-rank map."""
    with pytest.raises(UnsupportedModel, match="not a linear module"):
        attach(tiny.bert(), [LoRA(target_modules=("output.LayerNorm",))], tiny.generator())


@pytest.mark.parametrize(
    ("layers", "expected"), [(None, {0, 1, 2}), (1, {2}), (2, {1, 2}), ((0, 2), {0, 2})]
)
def test_layers_are_all_the_top_n_or_those_named(layers, expected):
    """None, an int and a tuple each mean what `layers` says."""
    sites = attach(tiny.bert(3), [LoRA(layers=layers)], tiny.generator())
    assert {site.layer for _, site in sites.items()} == expected


@pytest.mark.parametrize("layers", [0, 4, (3,), (-1,), ()])
def test_layers_the_model_lacks_are_refused(layers):
    """A posterior on layers that are not there would be silently empty."""
    with pytest.raises(UnsupportedModel, match="layers this model does not have"):
        attach(tiny.bert(3), [LoRA(layers=layers)], tiny.generator())


def test_the_generator_fixes_the_start():
    """Same seed, same A; another seed, another A. A is within Kaiming's bound 1/√in."""
    first, again, other = (
        attach(tiny.bert(1), [LoRA()], tiny.generator(seed)).values()["0.query.lora.a"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.9 * 32**-0.5 < first.abs().max() <= 32**-0.5
