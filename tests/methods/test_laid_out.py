from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bhpeft.methods import BitFit, LoRA, attach, swapped
from bhpeft.methods.laid_out import LaidOutLinear, available, is_laid_out, lay_out
from tests import tiny

pytestmark = pytest.mark.skipif(not available(), reason="torch was built without oneDNN")

# What a sum of so many terms may differ by when its terms are added in another order.
CLOSE = {
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 0.02, "rtol": 2**-7},
}


def linear(dtype: torch.dtype = torch.float32, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(24, 40, bias=bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("shape", [(1, 24), (3, 7, 24), (2, 3, 50, 24)], ids=str)
def test_the_product_and_the_one_back_are_the_plain_ones(shape, dtype, bias):
    plain = linear(dtype, bias)
    ours = LaidOutLinear(plain)
    x = torch.randn(shape, generator=tiny.generator()).to(dtype)
    gradient = torch.randn((*shape[:-1], 40), generator=tiny.generator(1)).to(dtype)
    torch.testing.assert_close(ours(x), plain(x), **CLOSE[dtype])
    found, wanted = (x.clone().requires_grad_() for _ in range(2))
    ours(found).backward(gradient)
    F.linear(wanted, plain.weight, plain.bias).backward(gradient)
    torch.testing.assert_close(found.grad, wanted.grad, **CLOSE[dtype])


def test_rows_that_are_not_contiguous_are_multiplied_as_they_are_meant():
    plain = linear()
    x = torch.randn(24, 5, generator=tiny.generator()).t()
    torch.testing.assert_close(LaidOutLinear(plain)(x), plain(x), **CLOSE[torch.float32])


def test_a_weight_that_changed_is_laid_out_anew():
    """In place, and by another tensor: a stale copy would go on answering."""
    ours, x = LaidOutLinear(linear()), torch.ones(2, 24)
    before = ours(x)
    ours.weight.mul_(2.0)
    torch.testing.assert_close(ours(x) - ours.bias, 2 * (before - ours.bias))
    ours.weight.data = torch.zeros(40, 24)
    torch.testing.assert_close(ours(x), ours.bias.expand(2, 40))


def test_what_it_is_not_for_takes_the_plain_way():
    """Another dtype than it was laid out in, and a weight that learns."""
    ours = LaidOutLinear(linear())
    ours.double()
    x = torch.ones(2, 24, dtype=torch.float64)
    assert not ours.serves(x)
    assert ours(x).dtype == torch.float64
    learning = LaidOutLinear(linear())
    learning.weight.requires_grad_()
    learning(torch.ones(2, 24)).sum().backward()
    assert learning.weight.grad is not None


# GPT-2's transposed modules are left as they are; Llama and ModernBERT have no bias to train.
@pytest.mark.parametrize("family", sorted(tiny.FAMILIES.keys() - {"gpt2"}))
def test_a_model_says_and_learns_the_same_and_has_the_same_parameters(family):
    """With LoRA inside and BitFit's hooks on what was replaced, forward and backward."""
    minibatch = tiny.minibatch()
    found = []
    for laid_out in (False, True):
        model = tiny.FAMILIES[family]()
        names = list(model.state_dict())
        if laid_out:
            lay_out(model)
        assert (is_laid_out(model), list(model.state_dict())) == (laid_out, names)
        methods = [LoRA(rank=3)] + ([] if family in ("llama", "modernbert") else [BitFit()])
        sites = attach(model, methods, tiny.generator())
        draw = {name: w.requires_grad_() for name, w in tiny.draw(sites.shapes).items()}
        with swapped(sites, draw):
            hidden = model(**minibatch).last_hidden_state
            hidden.square().sum().backward()
            with torch.no_grad():
                again = model(**minibatch).last_hidden_state
        torch.testing.assert_close(hidden, again, atol=1e-5, rtol=1e-5)
        found.append((hidden.detach(), {name: w.grad for name, w in draw.items()}))
    (plain, slopes), (ours, our_slopes) = found
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    for name, slope in slopes.items():
        scale = float(slope.abs().max())
        torch.testing.assert_close(our_slopes[name], slope, atol=1e-5 * scale + 1e-7, rtol=1e-4)
