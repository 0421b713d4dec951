from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from bhpeft.methods import ARCHITECTURES, BitFit, Houlsby, LoRA, ParallelAdapter, Prefix, Prompt
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.load import in_memory
from tests import tiny

SETS = {
    "lora": [LoRA()],
    "union": [LoRA(), ParallelAdapter(), Prefix(length=3), Houlsby(), Prompt(length=2)],
    "top": [LoRA(layers=1), ParallelAdapter(layers=1), Prefix(length=3, layers=1)],
    "biases": [LoRA(), BitFit()],
}
BUILD = {kind: tiny.FAMILIES[kind] for kind in tiny.FAMILIES if kind != "gpt2"} | {
    kind: (lambda kind=kind: tiny.cousin(kind))
    for kind in ("xlm-roberta", "camembert", "electra", "mistral", "qwen2", "qwen3", "smollm3")
}
# One of each attention module; the cousins left out share theirs with one of these.
FAMILIES = ("bert", "distilbert", "modernbert", "llama", "qwen3", "smollm3")
BIASED = ("bert", "roberta", "distilbert", "xlm-roberta", "camembert", "electra")


def pair(family="bert", methods="union", pooling="last"):
    """Return two float64 models alike but for the second, whose last layer computes every token."""
    quick, plain = (
        AdaptedModel(
            in_memory(BUILD[family](), tiny.tokenizer(), family),
            SETS[methods], 3, pooling, generator=tiny.generator(),
        )
        for _ in range(2)
    )  # fmt: skip
    assert quick._last is not None
    plain._last = None
    for model in (quick, plain):
        model.model.double()
        model.head.double()
    return quick, plain


def draw(model, draws=None):
    return {name: tensor.double() for name, tensor in tiny.draw(model.shapes, draws).items()}


def left_padded(minibatch):
    """The same texts with their padding before them."""
    order = minibatch["attention_mask"].argsort(dim=1, stable=True)
    return {name: tensor.gather(1, order) for name, tensor in minibatch.items()}


def with_gradients(model, weights, minibatch, per_example=False, recompute=False):
    """Return the logits, and the gradients of a loss on them by name."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    with model.checkpointed() if recompute else nullcontext(), model.swapped(leaves):
        logits = model.logits(minibatch, per_example)
        cross_entropy(logits, torch.arange(len(logits)) % 3).backward()
    return logits.detach(), {name: leaf.grad for name, leaf in leaves.items()}


def agree(found, expected):
    """In float64 but for ModernBERT, which turns its keys in float32 whatever it computes in."""
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-6)
    for name, gradient in expected[1].items():
        mine = found[1][name]
        if mine is None:  # a weight of the last layer that no pooled token reads
            assert gradient is None or float(gradient.abs().max()) == 0.0, name
        else:
            limit = 1e-6 * max(float(gradient.abs().max()), 0.1)
            torch.testing.assert_close(mine, gradient, atol=limit, rtol=0, msg=name)
    assert max(float(g.abs().max()) for g in expected[1].values() if g is not None) > 1e-3


@pytest.mark.parametrize("pooling", ["first", "last"])
@pytest.mark.parametrize(
    ("family", "methods"),
    [(family, methods) for family in BUILD for methods in SETS
     if methods != "biases" or family in BIASED],
)  # fmt: skip
def test_one_token_gets_the_logits_and_gradients_of_all(family, methods, pooling):
    """Every method at once, texts of different lengths, padding on either side."""
    quick, plain = pair(family, methods, pooling)
    weights = draw(quick)
    for minibatch in (tiny.minibatch(), left_padded(tiny.minibatch())):
        agree(with_gradients(quick, weights, minibatch), with_gradients(plain, weights, minibatch))


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_without_padding_agree_too(family, rows):
    """Then there is no mask, and the causal one is implied; nine rows of nine tokens."""
    for pooling in ("first", "last"):
        quick, plain = pair(family, "lora", pooling)
        weights = draw(quick)
        minibatch = {
            "input_ids": torch.randint(4, tiny.VOCAB, (rows, 9), generator=tiny.generator()),
            "attention_mask": torch.ones(rows, 9, dtype=torch.long),
        }
        agree(with_gradients(quick, weights, minibatch), with_gradients(plain, weights, minibatch))


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_draws_of_all_layers_are_folded_over_one_token(family, per_example):
    """S·B rows reach the last layer, and each looks at its own keys and values."""
    quick, plain = pair(family, "union")
    weights = draw(quick, 3)
    options = (tiny.minibatch(), per_example)
    agree(with_gradients(quick, weights, *options), with_gradients(plain, weights, *options))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpointed_last_layer_sees_the_same_keys(family):
    """It is computed again in the backward pass, from the one token and the keys it was given."""
    quick, plain = pair(family, "union")
    weights = draw(quick)
    agree(
        with_gradients(quick, weights, tiny.minibatch(), recompute=True),
        with_gradients(plain, weights, tiny.minibatch()),
    )


def test_the_feed_forward_of_the_last_layer_sees_one_token_a_row():
    """What it is for; the layer below still sees all of them."""
    quick, _ = pair("bert", "lora")
    seen = []
    for layer in quick.model.encoder.layer:
        layer.intermediate.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    quick.logits(tiny.minibatch())
    assert seen == [9, 1]


def test_mean_pooling_and_unknown_attention_compute_every_token():
    """The mean reads all of them; DeBERTa attends by itself; GPT-2 restores its input's shape."""
    for family, pooling in (("bert", "mean"), ("deberta", "last"), ("gpt2", "last")):
        model = AdaptedModel(tiny.base(family), [LoRA()], 3, pooling, generator=tiny.generator())
        assert model._last is None
        assert model.logits(tiny.minibatch()).shape == (3, 3)


def test_every_architecture_says_where_its_keys_are_or_is_named_here():
    assert {kind for kind, one in ARCHITECTURES.items() if not one.key_value} == {
        "deberta-v2",
        "gpt2",
    }


def test_a_hook_on_what_enters_the_attention_keeps_all_tokens():
    """Keys made outside of the module would miss what somebody's method does to its input."""
    quick, plain = pair("llama", "lora")
    for model in (quick, plain):
        attention = model.model.layers[-1].self_attn
        attention.register_forward_pre_hook(
            lambda _, args, given: (args, given | {"hidden_states": 2 * given["hidden_states"]}),
            with_kwargs=True,
        )
    assert torch.equal(quick.logits(tiny.minibatch()), plain.logits(tiny.minibatch()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_fewer_bits_the_difference_is_rounding(family, dtype):
    """One token and all of them differ by no more than twice what the dtype costs either."""
    quick, plain = pair(family, "lora")
    with torch.no_grad():
        weights = draw(quick)
        with plain.swapped(weights):
            exact = plain.logits(tiny.minibatch())
        for model in (quick, plain):
            model.model.to(dtype)
        with quick.swapped(weights), plain.swapped(weights):
            one, every = quick.logits(tiny.minibatch()), plain.logits(tiny.minibatch())
    cost = (every - exact).abs().max()
    assert (one - every).abs().max() <= 2 * cost < 0.5 * exact.std()


DRAWN = {
    "lora": [LoRA()],
    "core": [LoRA(parameterisation="core")],
    "all projections": None,
    "union": SETS["union"][:-1],
    "biases": SETS["biases"],
}


def every_projection(family):
    """LoRA on queries, keys and values; ModernBERT has them in one."""
    paths = ARCHITECTURES[BUILD[family]().config.model_type].key_value
    query = {"key": "query", "k_proj": "q_proj", "k_lin": "q_lin"}.get(paths[0])
    return [LoRA(target_modules=(*paths, query) if query else paths), Prefix(length=3)]


@pytest.mark.parametrize("pooling", ["first", "last"])
@pytest.mark.parametrize(
    ("family", "methods"),
    [(family, methods) for family in (*FAMILIES, "qwen2") for methods in DRAWN
     if methods != "biases" or family in BIASED],
)  # fmt: skip
def test_draws_of_the_last_layer_are_queries_to_shared_keys(family, methods, pooling, monkeypatch):
    """Equal to tiling the whole layer, gradients too, whichever of its weights are drawn."""
    monkeypatch.setitem(SETS, methods, DRAWN[methods] or every_projection(family))
    quick, plain = pair(family, methods, pooling)
    drawn, point = draw(quick, draws=4), draw(quick)
    chosen = [name for name in drawn if name.startswith(("1.", "head"))]
    for some in (chosen, [n for n in chosen if n.endswith((".a", ".value", "delta", "down"))]):
        weights = point | {name: drawn[name] for name in some}
        for minibatch in (tiny.minibatch(), left_padded(tiny.minibatch()), tiny.minibatch(rows=1)):
            agree(
                with_gradients(quick, weights, minibatch), with_gradients(plain, weights, minibatch)
            )


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_values_are_projected_once_for_all_draws(family, monkeypatch):
    """Sixteen draws cost less than twice what one does, where tiling costs five times as much."""
    monkeypatch.setitem(SETS, "thin", [LoRA(rank=1)])
    quick, _ = pair(family, "thin")
    minibatch = tiny.minibatch(rows=3, tokens=64)

    def flops(draws):
        drawn = {n: t for n, t in draw(quick, draws).items() if n.startswith("1.")}
        with quick.swapped(draw(quick) | drawn), FlopCounterMode(display=False) as counter:
            quick.logits(minibatch)
        return counter.get_total_flops()

    shared = flops(16) / flops(1)
    monkeypatch.setattr("bhpeft.models.keys_values.separable", lambda projection: False)
    tiled = flops(16) / flops(1)
    assert shared < 2
    assert tiled > 2 * shared
