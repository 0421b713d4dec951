"""Attend by two batched products and a softmax, with the backward pass written by hand.

    P = softmax(s · Q Kᵀ + mask)                 O = P V
    dV = Pᵀ dO        dP = dO Vᵀ        dS = P ∘ (dP − rowsum(dP ∘ P))
    dQ = s · dS K     dK = s · dSᵀ Q

torch's fused attention on a CPU never writes P down, and pays for it in bfloat16 by a backward pass
2 to 7 times slower than these products at 256 to 64 tokens. So this one is for training, where the
measured choice is (`bhpeft.models.arithmetic`); without gradients the fused one stays.

Query heads that share a key-value head are laid one after another as queries of that head, so that
grouped heads need no copies of keys and values, and dK and dV sum over the group by themselves.

Source: Dao et al. 2022 (arXiv 2205.14135), appendix B.2, for the gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scaling: float
) -> Tensor:
    """Return softmax(s · Q Kᵀ) V over what each query may see.

    Args:
        query: (rows, heads, queries, head width).
        key: (rows, key-value heads, tokens, head width); heads is a multiple of key-value heads.
        value: like the keys, their width may be another.
        visible: (rows or 1, 1, queries, tokens) bool, True where a query may look; None for all.
        scaling: s.

    Returns:
        (rows, heads, queries, value width); zeros for a query that sees nothing, like `sdpa`.
    """
    attended: Tensor = _ExplicitAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, visible, scaling
    )
    return attended


class _ExplicitAttention(torch.autograd.Function):
    """The formulas above, on (rows · key-value heads, group · queries, width) matrices."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scaling: float
    ) -> Tensor:
        grouped = (key.shape[0] * key.shape[1], -1, query.shape[-1])
        q, k, v = (query * scaling).reshape(grouped), key.reshape(grouped), value.flatten(0, 1)
        scores = torch.bmm(q, k.transpose(1, 2))
        if visible is not None:
            _hide(scores.view(*query.shape[:3], -1), visible)
        weights = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(q, k, v, weights, visible)
        ctx.scaling, ctx.shapes = scaling, (query.shape, key.shape, value.shape)
        attended = torch.bmm(weights, v).view(*query.shape[:3], -1)
        return attended if visible is None else attended * visible.any(-1, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, visible = ctx.saved_tensors
        query, key, value = ctx.shapes
        wants_query, wants_key, wants_value = ctx.needs_input_grad[:3]
        if visible is not None:
            gradient = gradient * visible.any(-1, keepdim=True)
        g = gradient.reshape(*weights.shape[:2], -1)
        of_query = of_key = of_value = None
        if wants_value:
            of_value = torch.bmm(weights.transpose(1, 2), g).view(value)
        if wants_query or wants_key:
            of_weights = torch.bmm(g, v.transpose(1, 2))
            scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            if wants_query:
                of_query = torch.bmm(scores, k).mul_(ctx.scaling).view(query)
            if wants_key:
                of_key = torch.bmm(scores.transpose(1, 2), q).view(key)  # s is in q
        return of_query, of_key, of_value, None, None


def _hide(scores: Tensor, visible: Tensor) -> None:
    """Give hidden tokens no weight; the lowest finite number keeps an empty row from being NaN."""
    lowest = torch.finfo(scores.dtype).min
    scores.add_(torch.zeros_like(visible, dtype=scores.dtype).masked_fill_(~visible, lowest))
