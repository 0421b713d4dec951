from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bhpeft.errors import UnsupportedModel
from bhpeft.methods import LoRA, Prefix, architecture_of, attach, swapped
from bhpeft.methods import attention as seam
from bhpeft.methods.attention import EXPLICIT_TOKENS, attention_of, use_attention
from bhpeft.methods.explicit_attention import explicit_attention
from tests import tiny


def heads(rows: int, count: int, tokens: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Return (rows, heads, tokens, 8), laid out in memory as a model's projections leave it."""
    made = torch.randn(rows, tokens, count, 8, generator=tiny.generator(seed)).to(dtype)
    return made.transpose(1, 2).requires_grad_()


def triple(groups: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return (
        heads(3, 2 * groups, 7, 1, dtype),
        heads(3, 2, 7, 2, dtype),
        heads(3, 2, 7, 3, dtype),
    )


def mask_of(kind: str) -> Tensor | None:
    """Return a mask (3, 1, 7, 7): padding, causal with padding, or with a query that sees none."""
    padded = (torch.arange(7) < torch.tensor([7, 4, 1])[:, None])[:, None, None].expand(3, 1, 7, 7)
    if kind == "causal":
        return padded & torch.ones(7, 7, dtype=torch.bool).tril()
    if kind == "blind":
        return padded & (torch.arange(7) != 2)[:, None]
    return padded if kind == "padded" else None


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kind", ["none", "padded", "causal", "blind"])
def test_explicit_attention_and_its_gradients_are_those_of_sdpa(kind, groups):
    """In float64, so that nothing but the mathematics can differ."""
    q, k, v = triple(groups)
    mask = mask_of(kind)
    found = explicit_attention(q, k, v, mask, 0.3)
    stock = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, stock, atol=1e-12, rtol=1e-12)
    weight = torch.randn(found.shape, generator=tiny.generator(4), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, (q, k, v), weight),
        torch.autograd.grad(stock, (q, k, v), weight),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_in_bfloat16_it_stays_within_the_rounding_of_its_inputs():
    """bfloat16 keeps eight bits: a few 2^-8 of values of order one."""
    exact, rounded = triple(2), triple(2, torch.bfloat16)
    mask = mask_of("padded")
    found = explicit_attention(*rounded, mask, 0.3)
    expected = explicit_attention(*exact, mask, 0.3)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=4 * 2**-8, rtol=0)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), rounded),
        torch.autograd.grad(expected.sum(), exact),
        strict=True,
    ):
        torch.testing.assert_close(ours.double(), theirs, atol=8 * 2**-8, rtol=2**-6)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_the_gradients_asked_for_are_made(wanted):
    """A layer whose keys nothing adapts needs no gradient of its keys."""
    tensors = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(triple(1))]
    explicit_attention(*tensors, None, 0.3).sum().backward()
    assert [t.grad is not None for t in tensors] == [i == wanted for i in range(3)]


def hidden_and_gradients(family: str, attention: str, minibatch, checkpointed: bool = False):
    """Train in float64, so that a difference is a mistake and not a sum in another order."""
    model = tiny.FAMILIES[family]().double()
    use_attention(model, architecture_of(model), attention)
    sites = attach(model, [LoRA(rank=2), Prefix(length=3)], tiny.generator())
    if checkpointed:
        for layer in model.modules():
            if hasattr(layer, "gradient_checkpointing"):
                layer.gradient_checkpointing = layer.training = True
                layer._gradient_checkpointing_func = _recompute
    weights = {name: t.requires_grad_() for name, t in tiny.draw(sites.shapes, std=0.5).items()}
    with swapped(sites, weights):
        hidden = model(**minibatch).last_hidden_state
        real = minibatch["attention_mask"].bool()
        hidden[real].square().mean().backward()
    return hidden[real].detach(), {name: t.grad for name, t in weights.items()}


def _recompute(function, *args, **options):
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False, **options)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_model_trains_the_same_with_either(family, rows, checkpointed):
    """With prefixes, masks and causal masks, grouped heads and checkpointing."""
    minibatch = tiny.minibatch(rows=rows)
    stock, stock_gradients = hidden_and_gradients(family, "sdpa", minibatch)
    found, gradients = hidden_and_gradients(family, "explicit", minibatch, checkpointed)
    torch.testing.assert_close(found, stock, atol=1e-6, rtol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, stock_gradients[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_changes_nothing_on_real_tokens_in_training(family):
    """A text alone and the same text padded, both with gradients on."""
    minibatch = tiny.minibatch()
    together, _ = hidden_and_gradients(family, "explicit", minibatch)
    lengths = minibatch["attention_mask"].sum(1).tolist()
    for row, found in enumerate(together.split(lengths)):
        alone = {name: t[row : row + 1, : lengths[row]] for name, t in minibatch.items()}
        expected, _ = hidden_and_gradients(family, "explicit", alone)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_the_explicit_form_is_for_gradients_only(monkeypatch):
    """Predicting takes sdpa; so do texts too long for their weights to be written down."""
    calls = []

    def counted(*args):
        calls.append(args[0].shape)
        return explicit_attention(*args)

    monkeypatch.setattr(seam, "explicit_attention", counted)
    with torch.no_grad():
        model = tiny.bert()
        use_attention(model, architecture_of(model), "explicit")
        model(**tiny.minibatch())
    assert calls == []
    hidden_and_gradients("bert", "explicit", tiny.minibatch())
    assert len(calls) == 2
    monkeypatch.setattr(seam, "EXPLICIT_TOKENS", 8)
    hidden_and_gradients("bert", "explicit", tiny.minibatch())
    assert len(calls) == 2
    assert EXPLICIT_TOKENS == 512


def test_a_prefix_keeps_the_attention_that_was_chosen():
    """Whichever comes first, the choice and the prefix are both there."""
    model = tiny.bert()
    use_attention(model, architecture_of(model), "explicit")
    attach(model, [Prefix()], tiny.generator())
    assert attention_of(model) == "explicit"
    use_attention(model, architecture_of(model), "sdpa")
    assert attention_of(model) == "sdpa"


def test_a_model_with_attention_of_its_own_is_refused():
    with pytest.raises(UnsupportedModel, match="computed by the model itself"):
        use_attention(tiny.deberta(), architecture_of(tiny.deberta()), "explicit")
