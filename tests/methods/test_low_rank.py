from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from bhpeft.methods import LoRA, attach, swapped
from bhpeft.methods.low_rank import low_rank_linear
from tests import tiny


def matrices(dtype=torch.float64, rank=3):
    source = tiny.generator()
    shapes = {"x": (2, 5, 11), "w": (7, 11), "bias": (7,), "a": (rank, 11), "b": (7, rank)}
    return {name: torch.randn(shape, generator=source).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("biased", [True, False])
def test_the_function_and_its_gradients_are_those_of_the_plain_formula(biased):
    """In float64: the value, and the gradients of x, A and B."""
    m = matrices()
    bias = m["bias"] if biased else None
    leaves = [m[name].requires_grad_() for name in ("x", "a", "b")]
    found = low_rank_linear(m["x"], m["w"], bias, m["a"], m["b"], 2.0)
    plain = F.linear(m["x"], m["w"] + 2.0 * m["b"] @ m["a"], bias)
    torch.testing.assert_close(found, plain, atol=1e-12, rtol=1e-12)
    weight = torch.randn(found.shape, generator=tiny.generator(1), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, weight),
        torch.autograd.grad(plain, leaves, weight),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_float32_factors_on_a_bfloat16_base_get_float32_gradients():
    """The posterior stays float32 whatever the base computes in."""
    m = matrices()
    a, b = (m[name].float().requires_grad_() for name in ("a", "b"))
    x, w = m["x"].bfloat16(), m["w"].bfloat16()
    found = low_rank_linear(x, w, None, a, b, 2.0)
    found.float().square().mean().backward()
    exact = {name: m[name].clone().requires_grad_() for name in ("a", "b")}
    plain = F.linear(m["x"], m["w"] + 2.0 * exact["b"] @ exact["a"])
    plain.square().mean().backward()
    assert found.dtype == torch.bfloat16
    assert a.grad.dtype == b.grad.dtype == torch.float32
    scale = plain.detach().abs().max()
    torch.testing.assert_close(found.double(), plain.detach(), atol=float(scale) * 2**-7, rtol=0)
    for ours, theirs in ((a.grad, exact["a"].grad), (b.grad, exact["b"].grad)):
        atol = float(theirs.abs().max()) * 2**-6
        torch.testing.assert_close(ours.double(), theirs, atol=atol, rtol=0)


def test_an_update_below_the_bases_last_place_is_not_lost_in_bfloat16():
    """W + s·BA rounded to bfloat16 would be W again here, in every entry."""
    w = torch.ones(8, 8, dtype=torch.bfloat16)
    x = torch.full((1, 8), 2.0**-10, dtype=torch.bfloat16)
    a, b = torch.full((1, 8), 2.0**-9), torch.ones(8, 1)
    assert torch.equal((w.float() + b @ a).bfloat16(), w)
    found = low_rank_linear(x, torch.zeros_like(w), None, a, b, 1.0)
    torch.testing.assert_close(found, torch.full_like(found, 8 * 2.0**-19), atol=0, rtol=0)


@pytest.mark.parametrize("wanted", ["x", "a", "b"])
def test_only_the_gradients_asked_for_are_made(wanted):
    """The lowest layer's input is frozen and needs none."""
    m = matrices()
    m[wanted].requires_grad_()
    low_rank_linear(m["x"], m["w"], None, m["a"], m["b"], 2.0).sum().backward()
    assert [name for name, tensor in m.items() if tensor.grad is not None] == [wanted]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_training_takes_the_same_values_as_predicting(family):
    """With gradients the fused function computes, without them the plain path: one model."""
    model = tiny.FAMILIES[family]()
    sites = attach(model, [LoRA(rank=3)], tiny.generator())
    minibatch = tiny.minibatch()
    with swapped(sites, tiny.draw(sites.shapes)):
        fused = model(**minibatch).last_hidden_state
        with torch.no_grad():
            plain = model(**minibatch).last_hidden_state
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)


def test_what_is_hooked_to_the_wrapped_module_is_not_bypassed():
    """A method that trains the bias of the module LoRA wraps adds to that module's output."""
    model = tiny.bert(1)
    attach(model, [LoRA(rank=2)], tiny.generator())
    lora = model.encoder.layer[0].attention.self.query
    x = torch.randn(2, 3, 32, generator=tiny.generator())
    before = lora(x)
    shift = torch.ones(32, requires_grad=True)
    lora.base.register_forward_hook(lambda module, args, output: output + shift)
    after = lora(x)
    torch.testing.assert_close(after, before + 1, atol=1e-6, rtol=1e-6)
    assert torch.autograd.grad(after.sum(), shift)[0].eq(6).all()
