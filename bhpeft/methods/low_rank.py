"""Apply a frozen linear map and a trainable low-rank one beside it in one autograd function.

    y = x Wᵀ + s · (x Aᵀ) Bᵀ + bias
    dx = dy W + s · (dy B) A        dA = s · (dy B)ᵀ x        dB = s · dyᵀ (x Aᵀ)

Autograd on its own would add three passes over y and dx and keep a copy of y; here the low-rank
part is accumulated into the large product, x Aᵀ is kept for the backward pass, and W gets no
gradient. A CPU's product of a tall matrix and a thin one takes twice to four times as long when the
thin one's rows are not contiguous, so Bᵀ is laid out once and dB is made as its transpose.

Adding s·BA to W first needs as many multiplications as W has weights and saves 2r a token and
output: nothing where tokens are few, and little where they are many. In bfloat16 whatever is below
half a unit in the last place of W would be lost from it.

Source: Hu et al. 2021 (arXiv 2106.09685), equation 3, differentiated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bhpeft.methods.laid_out import LaidOutLinear


def low_rank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    scaling: float,
    laid_out: LaidOutLinear | None = None,
) -> Tensor:
    """Return x (W + s·BA)ᵀ + bias in the dtype of x.

    Args:
        x: (…, in).
        weight: W (out, in), frozen, in the dtype of x.
        bias: (out,), frozen, or None.
        a: A (rank, in).
        b: B (out, rank).
        scaling: s.
        laid_out: makes the products with W, where it is laid out for them.

    Returns:
        (…, out).
    """
    y: Tensor = _LowRankLinear.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, a, b, scaling, laid_out
    )
    return y


class _LowRankLinear(torch.autograd.Function):
    """The formulas above on x flattened to (tokens, in)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        laid_out: LaidOutLinear | None,
    ) -> Tensor:
        leaf = a.dtype
        flat, a = x.reshape(-1, x.shape[-1]), a.to(x.dtype)
        b_t = (scaling * b.t()).contiguous().to(x.dtype)
        low = flat @ a.t()
        y = F.linear(flat, weight, bias) if laid_out is None else laid_out.times(flat)
        y = y.addmm_(low, b_t)
        ctx.save_for_backward(flat, weight, a, b_t, low)
        ctx.scaling, ctx.dtype, ctx.laid_out = scaling, leaf, laid_out
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b_t, low = ctx.saved_tensors
        wants_x, _, _, wants_a, wants_b, *_ = ctx.needs_input_grad
        g = gradient.reshape(-1, gradient.shape[-1])
        g_low = g @ b_t.t()
        of_x = of_a = of_b = None
        if wants_x:
            of_x = g @ weight if ctx.laid_out is None else ctx.laid_out.back(g)
            of_x = of_x.addmm_(g_low, a).view(*gradient.shape[:-1], -1)
        if wants_a:
            of_a = (g_low.t() @ flat).to(ctx.dtype)
        if wants_b:
            of_b = (low.t() @ g).t().to(ctx.dtype).mul(ctx.scaling)
        return of_x, None, None, of_a, of_b, None, None
