from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from bhpeft.errors import ModelError, StateError
from bhpeft.methods import ARCHITECTURES, LoRA, ParallelAdapter, Prefix
from bhpeft.models.adapted import AdaptedModel
from tests import tiny

# BatchedFallback: vmap has no rule for the CPU's flash attention and says so; it is only slow.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

SETS = {
    "lora": [LoRA()],
    "adapter": [ParallelAdapter()],
    "prefix": [Prefix(length=3)],
    "union": [LoRA(), ParallelAdapter(), Prefix(length=3)],
    "top": [LoRA(layers=1), ParallelAdapter(layers=(1,)), Prefix(length=3, layers=1)],
    "mixed": [LoRA(layers=(0,)), ParallelAdapter(layers=(1,))],
}


def adapted(family="bert", methods="union", **options) -> AdaptedModel:
    return AdaptedModel(
        tiny.base(family), SETS[methods], labels=3, generator=tiny.generator(), **options
    )


def looped(model, weights, minibatch):
    """One pass a draw, one example after the other: the definition."""
    rows = []
    for s in range(len(next(iter(weights.values())))):
        with model.swapped({name: tensor[s] for name, tensor in weights.items()}):
            rows.append(model.logits(minibatch))
    return torch.cat(rows)


class Whole(nn.Module):
    """The model and its head as one module, so that torch.func sees every parameter."""

    def __init__(self, model: AdaptedModel):
        super().__init__()
        self.model, self.head, self.run = model.model, model.head, model.logits

    def forward(self, minibatch):
        return self.run(minibatch)


def vmapped(model, weights, minibatch):
    """The vmap of torch over functional_call: an oracle that knows nothing of sites or draws."""
    whole = Whole(model)
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    path = {name: names[id(tensor)] for name, tensor in model.sites.values().items()}

    def one(draw):
        return functional_call(whole, draw, (minibatch,))

    stacked = torch.vmap(one)({path[name]: tensor for name, tensor in weights.items()})
    return stacked.flatten(0, 1)


@pytest.mark.parametrize("methods", SETS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_folded_draws_equal_looped_draws_and_vmap(family, methods):
    """All draws in one forward pass are exactly what one pass a draw computes."""
    model = adapted(family, methods)
    weights = tiny.draw(model.shapes, draws=4)
    minibatch = tiny.minibatch()
    with torch.no_grad():
        with model.swapped(weights):
            folded = model.logits(minibatch)
        assert folded.shape == (4 * 3, 3)
        torch.testing.assert_close(folded, looped(model, weights, minibatch), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(folded, vmapped(model, weights, minibatch), atol=1e-5, rtol=1e-5)
        assert folded.view(4, 3, 3).std(0).min() > 0.01


@pytest.mark.parametrize("rows", [1, 9])
def test_folding_is_exact_whatever_the_number_of_rows(rows):
    """One row, and as many rows as tokens, where shapes could be mistaken for each other."""
    for family in tiny.FAMILIES:
        model = adapted(family, "top")
        weights = tiny.draw(model.shapes, draws=3)
        minibatch = tiny.minibatch(rows=rows, tokens=9)
        with torch.no_grad(), model.swapped(weights):
            folded = model.logits(minibatch)
        with torch.no_grad():
            expected = looped(model, weights, minibatch)
        torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-5)


def test_a_model_that_cannot_fold_loops_and_says_the_same():
    """DeBERTa-v2 projects its positions by the drawn weights, once for all rows."""
    model = AdaptedModel(
        tiny.base("deberta"), [LoRA(), ParallelAdapter()], 3, generator=tiny.generator()
    )
    weights = tiny.draw(model.shapes, draws=3)
    with torch.no_grad(), model.swapped(weights):
        folded = model.logits(tiny.minibatch())
        each = model.logits(tiny.minibatch(), per_example=True)
    with torch.no_grad():
        expected = looped(model, weights, tiny.minibatch())
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-5)
    diagonal = expected.view(3, 3, 3)[range(3), range(3)]
    torch.testing.assert_close(each, diagonal, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_one_draw_an_example_is_row_b_under_draw_b(family):
    """Per example nothing is tiled: the diagonal of all examples under all draws."""
    model = adapted(family)
    weights = tiny.draw(model.shapes, draws=3)
    with torch.no_grad():
        with model.swapped(weights):
            found = model.logits(tiny.minibatch(), per_example=True)
        every = looped(model, weights, tiny.minibatch()).view(3, 3, 3)
    torch.testing.assert_close(found, every[range(3), range(3)], atol=1e-5, rtol=1e-5)


def test_per_example_needs_as_many_draws_as_rows():
    """Two draws for three examples are refused, not broadcast."""
    model = adapted()
    with (
        model.swapped(tiny.draw(model.shapes, draws=2)),
        pytest.raises(StateError, match="2 draws for 3 examples"),
    ):
        model.logits(tiny.minibatch(), per_example=True)


@pytest.mark.parametrize(
    ("chosen", "rows_seen"),
    [("1.", [3, 12]), ("head.", [3, 3]), ("0.", [12, 12])],
)
def test_layers_below_the_lowest_draw_see_the_minibatch_once(chosen, rows_seen):
    """Tiling happens at the first layer that holds a drawn weight, or after the last."""
    model = adapted(methods="union")
    weights = {
        name: tensor
        for name, tensor in tiny.draw(model.shapes, draws=4).items()
        if name.startswith(chosen)
    }
    seen = []
    for layer in model.model.encoder.layer:
        layer.attention.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with torch.no_grad(), model.swapped(weights):
        folded = model.logits(tiny.minibatch())
    assert seen == rows_seen
    with torch.no_grad():
        expected = looped(model, weights, tiny.minibatch())
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-5)


def test_layers_below_the_methods_keep_nothing_for_the_backward_pass():
    """The frozen layers under the lowest method need no gradient, so autograd stores nothing."""
    model = adapted(methods="top")
    tracked = []
    for layer in model.model.encoder.layer:
        layer.register_forward_hook(lambda *call: tracked.append(call[-1].requires_grad))
    model.logits(tiny.minibatch())
    assert tracked == [False, True]


def gradients(model, weights, recompute=None):
    """Return the gradients of a loss by name, and the loss."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    with recompute or nullcontext(), model.swapped(leaves):
        logits = model.logits(tiny.minibatch())
        target = torch.arange(len(logits)) % 3
        loss = cross_entropy(logits, target)
        loss.backward()
    return {name: leaf.grad for name, leaf in leaves.items()}, loss.detach()


@contextmanager
def stock_checkpointing(model):
    """Switch on what transformers offers, which also keeps the embeddings' gradient."""
    model.model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in model._layers:
        layer.training = True
    yield


def watched(model, family):
    """Return a list that grows by one each time a layer computes its attention."""
    calls = []
    name = str(ARCHITECTURES[model.model.config.model_type].attention)
    for layer in model._layers:
        layer.get_submodule(name).register_forward_hook(lambda *_: calls.append(family))
    return calls


@pytest.mark.parametrize("switch", [AdaptedModel.checkpointed, stock_checkpointing])
@pytest.mark.parametrize("draws", [None, 3])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_are_the_same_with_checkpointing(family, draws, switch):
    """Each layer is computed again inside the scope, so it sees the same drawn weights."""
    model = adapted(family)
    weights = tiny.draw(model.shapes, draws=draws)
    calls = watched(model, family)
    plain, loss = gradients(model, weights)
    assert len(calls) == 2
    again, same_loss = gradients(model, weights, switch(model))
    assert len(calls) == 2 + 4, "the layers were not computed again"
    torch.testing.assert_close(loss, same_loss)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    assert max(float(gradient.abs().max()) for gradient in plain.values()) > 1e-3


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_recomputing_the_whole_model_gives_the_same_gradients(family):
    """Tiling included: torch's checkpoint around everything runs it all a second time."""
    model = adapted(family, "top")
    weights = tiny.draw(model.shapes, draws=3)
    plain, _ = gradients(model, weights)
    run = model.logits
    model.logits = lambda *args: checkpoint(run, *args, use_reentrant=False)
    again, _ = gradients(model, weights)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_checkpointing_leaves_frozen_layers_alone():
    """Layers under the lowest method are neither kept nor computed again."""
    model = adapted("bert", "top")
    calls = watched(model, "bert")
    gradients(model, tiny.draw(model.shapes), model.checkpointed())
    assert len(calls) == 2 + 1


def test_the_recomputed_layers_need_the_weights_until_the_backward_pass_is_over():
    """Leaving the scope before backward gives other gradients: why it is a scope and not a call."""
    model = adapted("bert", "lora")
    weights = tiny.draw(model.shapes)
    right, _ = gradients(model, weights)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    with model.checkpointed():
        with model.swapped(leaves):
            loss = cross_entropy(model.logits(tiny.minibatch()), torch.arange(3))
        loss.backward()
    wrong = leaves["1.query.lora.a"].grad
    assert wrong is None or not torch.allclose(wrong, right["1.query.lora.a"], atol=1e-4)


def test_checkpointing_ends_with_its_block_and_dropout_stays_off():
    """Nothing is left in training mode, and two passes under it agree."""
    model = adapted("bert")
    assert model.model.config.hidden_dropout_prob > 0
    with model.checkpointed():
        first, second = model.logits(tiny.minibatch()), model.logits(tiny.minibatch())
    assert torch.equal(first, second)
    assert not any(module.training for module in model.model.modules())


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_do_not_depend_on_padding(family, pooling):
    """A text alone and the same text padded beside longer ones get the same logits."""
    model = adapted(family, pooling=pooling)
    minibatch = tiny.minibatch()
    with torch.no_grad(), model.swapped(tiny.draw(model.shapes, draws=2)):
        together = model.logits(minibatch).view(2, 3, 3)
        for row, real in enumerate(minibatch["attention_mask"].sum(1).tolist()):
            one = {name: tensor[row : row + 1, :real] for name, tensor in minibatch.items()}
            torch.testing.assert_close(together[:, row], model.logits(one), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("methods", ["lora", "adapter"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_fresh_model_classifies_by_the_base_alone(family, methods):
    """B = 0 and U = 0: the logits are the head on the base's own pooled hidden states."""
    minibatch = tiny.minibatch()
    hidden = tiny.FAMILIES[family]()(**minibatch).last_hidden_state
    model = adapted(family, methods, pooling="first")
    expected = hidden[:, 0] @ model.head.weight.T
    torch.testing.assert_close(model.logits(minibatch), expected, atol=1e-6, rtol=1e-6)


def test_decoders_pool_the_last_token_and_encoders_the_mean():
    pooling = {family: adapted(family).pooling for family in tiny.FAMILIES}
    assert {family for family, way in pooling.items() if way == "last"} == {"llama", "gpt2"}
    assert {pooling[family] for family in ("bert", "roberta", "distilbert")} == {"mean"}


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ModelError, match="no pooling called 'max'"):
        adapted(pooling="max")


def test_the_embedding_is_the_frozen_bases_whatever_was_learned():
    """The mean of the base's hidden states over real tokens, methods left out."""
    minibatch = tiny.minibatch()
    hidden = tiny.bert()(**minibatch).last_hidden_state
    mask = minibatch["attention_mask"][..., None]
    expected = (hidden * mask).sum(1) / mask.sum(1)
    model = adapted()
    with model.swapped(tiny.draw(model.shapes, draws=2)):
        found = model.embed(minibatch)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert not found.requires_grad


def test_key_value_std_is_that_of_the_bases_keys_and_values():
    """Measured over real tokens, of the frozen base, and padding does not move it."""
    model = adapted(methods="top")
    minibatch = tiny.minibatch()
    plain = tiny.bert().requires_grad_(False)
    hidden = plain(**minibatch, output_hidden_states=True).hidden_states[1]
    attention = plain.encoder.layer[1].attention.self
    real = minibatch["attention_mask"].bool()
    found = model.key_value_std(minibatch)
    assert found == {
        "1.attention.prefix.key": pytest.approx(float(attention.key(hidden)[real].std()), rel=1e-4),
        "1.attention.prefix.value": pytest.approx(
            float(attention.value(hidden)[real].std()), rel=1e-4
        ),
    }


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_bfloat16_base_keeps_what_is_trained_in_float32(family):
    """The base computes in bfloat16; weights, logits and gradients are float32 and finite."""
    base = tiny.base(family)
    base.model.to(torch.bfloat16)
    model = AdaptedModel(base, SETS["union"], 3, generator=tiny.generator())
    exact = adapted(family)
    weights = tiny.draw(model.shapes)
    found, _ = gradients(model, weights)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert next(model.model.parameters()).dtype == torch.bfloat16
    with torch.no_grad(), model.swapped(weights), exact.swapped(weights):
        rough, fine = model.logits(tiny.minibatch()), exact.logits(tiny.minibatch())
    assert rough.dtype == torch.float32
    # bfloat16 keeps eight bits; logits here are of order one, after some twenty roundings.
    assert (rough - fine).abs().max() < 0.25 * fine.std()
