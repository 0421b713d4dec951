from __future__ import annotations

import pytest
import torch

from bhpeft.errors import ConfigError, StateError
from bhpeft.methods import LoRA, ParallelAdapter, Prefix, attach, bypassed, swapped
from bhpeft.methods.sites import Sites
from tests import tiny


@pytest.fixture
def attached():
    model = tiny.bert()
    sites = attach(model, [LoRA(rank=2), ParallelAdapter(), Prefix(length=3)], tiny.generator())
    return model, sites


def test_names_say_layer_place_method_and_leaf(attached):
    """A name locates a weight; its part is the same in every layer."""
    _, sites = attached
    assert [name for name in sites if name.startswith("1.")] == [
        "1.query.lora.a",
        "1.query.lora.b",
        "1.value.lora.a",
        "1.value.lora.b",
        "1.ffn.adapter.down",
        "1.ffn.adapter.up",
        "1.attention.prefix.key",
        "1.attention.prefix.value",
    ]
    assert sites["1.query.lora.a"].part == "lora.a"
    assert sites["1.query.lora.a"].fan_in == 32
    assert sites["1.query.lora.b"].fan_in == 2
    assert sites.shapes["0.attention.prefix.key"] == (3, 32)


def test_only_the_sites_require_gradients(attached):
    """The base is frozen; what was attached is not."""
    model, sites = attached
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(tensor) for tensor in sites.values().values()}


def test_swapped_uses_the_tensors_and_puts_the_parameters_back(attached):
    """Inside the block the very tensors are in place, after it the very parameters."""
    _, sites = attached
    before = sites.values()
    drawn = tiny.draw(sites.shapes, draws=4)
    with swapped(sites, drawn):
        assert all(tensor is drawn[name] for name, tensor in sites.values().items())
        assert sites.draws == 4
        assert sites.lowest_drawn == 0
    assert all(tensor is before[name] for name, tensor in sites.values().items())
    assert sites.draws is None


def test_swapped_restores_after_an_exception(attached):
    """A training step that fails leaves the model as it was."""
    _, sites = attached
    before = sites.values()
    with pytest.raises(ZeroDivisionError), swapped(sites, tiny.draw(sites.shapes)):
        _ = 1 / 0
    assert all(tensor is before[name] for name, tensor in sites.values().items())


def test_swapped_nests(attached):
    """An inner block lends the outer block's tensors, not the model's, and gives them back."""
    _, sites = attached
    outer, inner = tiny.draw(sites.shapes, seed=1), tiny.draw(sites.shapes, seed=2)
    with swapped(sites, outer):
        with swapped(sites, inner):
            assert sites["0.query.lora.a"].tensor is inner["0.query.lora.a"]
        assert sites["0.query.lora.a"].tensor is outer["0.query.lora.a"]


def test_gradients_reach_tensors_behind_the_swapped_ones(attached):
    """A drawn tensor may have a graph behind it: the gradient of mean and std comes through."""
    model, sites = attached
    mean = {name: value.requires_grad_() for name, value in tiny.draw(sites.shapes).items()}
    with swapped(sites, {name: 2 * value for name, value in mean.items()}):
        model(**tiny.minibatch()).last_hidden_state.square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in mean.values())
    assert all(tensor.grad is None for tensor in sites.values().values())


def test_an_unknown_name_is_refused_with_the_closest_known_one(attached):
    """A typo in a stored posterior is named, and nothing is swapped."""
    _, sites = attached
    before = sites.values()
    weights = {**tiny.draw(sites.shapes), "0.query.lora.aa": torch.ones(2, 32)}
    with (
        pytest.raises(StateError, match=r"'0.query.lora.aa'.*Did you mean '0.query.lora.a'"),
        swapped(sites, weights),
    ):
        pass
    assert all(tensor is before[name] for name, tensor in sites.values().items())


def test_a_misshapen_weight_is_named_with_both_shapes(attached):
    """Found and expected shape are both said."""
    _, sites = attached
    with (
        pytest.raises(StateError, match=r"'0.query.lora.a'.*\(32, 2\).*expected shape \(2, 32\)"),
        swapped(sites, {"0.query.lora.a": torch.ones(32, 2)}),
    ):
        pass


def test_weights_of_different_numbers_of_draws_are_refused(attached):
    """Draws pair up row by row, so there has to be one S."""
    _, sites = attached
    weights = {"0.query.lora.a": torch.ones(3, 2, 32), "1.query.lora.a": torch.ones(4, 2, 32)}
    with pytest.raises(StateError, match="different numbers of draws"), swapped(sites, weights):
        pass


def test_two_sites_of_one_name_are_refused(attached):
    """A posterior is keyed by name, so a name is unique."""
    _, sites = attached
    with pytest.raises(ConfigError, match="both want the name"):
        Sites([*dict(sites.items()).values(), sites["0.query.lora.a"]])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_bypassed_is_the_untouched_base_to_the_bit(family):
    """With every method left out the outputs are those of the model before anything attached."""
    minibatch = tiny.minibatch()
    plain = tiny.FAMILIES[family]()(**minibatch).last_hidden_state
    model = tiny.FAMILIES[family]()
    sites = attach(model, [LoRA(), ParallelAdapter(), Prefix()], tiny.generator())
    with swapped(sites, tiny.draw(sites.shapes)):
        with bypassed(sites):
            assert torch.equal(model(**minibatch).last_hidden_state, plain)
        assert not torch.equal(model(**minibatch).last_hidden_state, plain)
