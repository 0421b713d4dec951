from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from transformers import T5Config, T5Model

from bhpeft.errors import ConfigError, ModelError, UnknownName, UnsupportedModel
from bhpeft.methods import (
    ARCHITECTURES,
    METHODS,
    LoRA,
    ParallelAdapter,
    Prefix,
    Site,
    attach,
    method,
)
from bhpeft.methods.conformance import check_method
from tests import tiny

# The architectures whose layers have no bias at all, so that bitfit has nothing to train.
BIASLESS = {"llama", "mistral", "qwen3", "smollm3", "modernbert"}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        (name, family)
        for name, family in itertools.product(METHODS, tiny.FAMILIES)
        if (name, family) not in itertools.product(["bitfit"], BIASLESS)
    ],
)
def test_every_method_keeps_the_contract_on_every_architecture(name, family):
    """The check that ships for other people's methods holds for ours."""
    check_method(method(name), tiny.FAMILIES[family], tiny.minibatch())


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES.keys() - {*tiny.FAMILIES, "deberta-v2"}))
def test_every_architecture_listed_is_served(kind):
    """The ones that share another's layout are tried too, with all methods at once."""
    names = [name for name in METHODS if name != "bitfit" or kind not in BIASLESS]
    check_method(Union(names), lambda: tiny.cousin(kind), tiny.minibatch())


# What a method asks of a model, as the words of its refusal name it.
CANNOT = {
    **{("bitfit", kind): "no biases to train" for kind in BIASLESS},
    ("prefix", "deberta-v2"): "attention",
}


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_a_method_sits_where_the_architecture_has_its_place_or_says_what_it_lacks(kind):
    """By default and without a setting; docs/methods.md has the table."""
    for name in METHODS:
        model = tiny.of_kind(kind)
        if (name, kind) not in CANNOT:
            assert attach(model, [method(name)], tiny.generator()).shapes
            continue
        with pytest.raises(UnsupportedModel, match=CANNOT[name, kind]):
            attach(model, [method(name)], tiny.generator())


class Union:
    """Several methods as one."""

    def __init__(self, names):
        self.names = names

    def attach(self, model, architecture, generator):
        for name in self.names:
            yield from method(name).attach(model, architecture, generator)


class Stray:
    """A method that multiplies in a way only one draw survives."""

    def attach(self, model, architecture, generator):
        layer = model.encoder.layer[0]
        layer.stray = nn.Parameter(torch.randn(32, generator=generator))
        layer.active = True
        layer.register_forward_hook(
            lambda *call: call[-1] * layer.stray.reshape(-1)[:32] if layer.active else None
        )
        yield Site("0.layer.stray.scale", "stray.scale", layer, "stray", 1, 0)


class Unseeded:
    """A method that starts from torch's global generator."""

    def attach(self, model, architecture, generator):
        sites = list(LoRA().attach(model, architecture, torch.default_generator))
        yield from sites


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (Stray(), "draws in one pass equal one pass a draw"),
        (Unseeded(), "one seed gives one start"),
    ],
)
def test_the_check_refuses_a_method_that_breaks_the_contract(broken, says):
    """A check that everything passes would prove nothing."""
    with torch.random.fork_rng(devices=[]), pytest.raises(ModelError, match=says):
        check_method(broken, tiny.bert, tiny.minibatch())


def test_settings_come_by_name_as_a_stream_file_spells_them():
    """TOML has lists where the settings have tuples."""
    assert method("lora", {"rank": 4, "target_modules": ["query"]}) == LoRA(
        rank=4, target_modules=("query",)
    )
    assert method("adapter") == ParallelAdapter()
    assert method("bhpeft.methods.prefix:Prefix", {"length": 3}) == Prefix(3)


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(UnknownName, match="adapter, bitfit, houlsby, lora, prefix, prompt"):
        method("lorra")


def test_an_unknown_setting_gets_a_did_you_mean():
    with pytest.raises(ConfigError, match=r"no setting 'ranks'.*Did you mean 'rank'"):
        method("lora", {"ranks": 8})


def test_an_unknown_architecture_lists_the_known_ones():
    config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=32)
    with pytest.raises(UnsupportedModel, match=r"'t5' model.*bert.*llama"):
        attach(T5Model(config), [LoRA()], tiny.generator())


def test_the_same_method_twice_on_one_place_is_refused():
    with pytest.raises(ConfigError, match=r"both want the name '0\.ffn\.adapter\.down'"):
        attach(tiny.bert(), [ParallelAdapter(), ParallelAdapter()], tiny.generator())
