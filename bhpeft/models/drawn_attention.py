"""Attend from one token under S draws at once, to keys and values that are projected once.

    keys_s = K + (x A_sᵀ) B_sᵀ                          values likewise
    q_s · keys_s = q_s · K + ((q_s B_s) · (x A_sᵀ))      Σ p values_s = p V + (p (x A_sᵀ)) B_sᵀ

The draws share x, so K and V are those of the frozen projection and what is drawn stays in rank-r
space: x A_sᵀ for all tokens, B_s for the one query. A bias δ_s is such a term of rank one with
x A_sᵀ = 1. A drawn prefix has keys and values of its own. Rows are draws-major in what comes in and
goes out, as everywhere (`bhpeft.methods.sampled`).

Source: performance notes, "last-layer trick".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bhpeft.methods.bitfit import BiasDelta
from bhpeft.methods.laid_out import LaidOutLinear
from bhpeft.methods.lora import LoRALinear
from bhpeft.methods.prefix import PrefixKeyValue

Attended = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Term:
    """What draws add to a projection, as low · upᵀ.

    Attributes:
        low: (B or 1, S or 1, T, r).
        up: (S or 1, out, r).
    """

    low: Tensor
    up: Tensor


@dataclass(frozen=True)
class Projected:
    """A projection of x under S draws: what they share, (B, T, out), and what each adds."""

    shared: Tensor
    terms: tuple[Term, ...] = ()

    def plus(self, term: Term) -> Projected:
        """Add a term: to what is shared, if it is the same in every draw."""
        if term.low.shape[1] == len(term.up) == 1:
            return Projected(self.shared + term.low[:, 0] @ term.up[0].mT, self.terms)
        return Projected(self.shared, (*self.terms, term))

    def chunk(self, count: int) -> list[Projected]:
        """Cut the outputs into `count` equal parts, as a fused projection is."""
        ups = [term.up.chunk(count, dim=1) for term in self.terms]
        return [
            Projected(
                part, tuple(Term(t.low, up[i]) for t, up in zip(self.terms, ups, strict=True))
            )
            for i, part in enumerate(self.shared.chunk(count, dim=-1))
        ]


def separable(module: nn.Module) -> bool:
    """Say whether a projection is a linear map, LoRA and BitFit, and nothing else."""
    linear = module.base if type(module) is LoRALinear else module
    biases = int("bhpeft_bitfit" in module._modules)
    hooks = [*module._forward_pre_hooks, *module._forward_hooks]
    inner = [] if linear is module else [*linear._forward_pre_hooks, *linear._forward_hooks]
    return type(linear) in (nn.Linear, LaidOutLinear) and len(hooks) == biases and not inner


def projected(module: nn.Module, x: Tensor) -> Projected:
    """Project x (B, T, d) by a separable module under the draws now in place."""
    linear = module.base if isinstance(module, LoRALinear) else module
    # Without its hooks: a bias of BitFit's is a term of its own below.
    made = Projected(linear.forward(x))
    if isinstance(module, LoRALinear) and module.active:
        made = made.plus(
            _low_rank(x, module.a.to(x.dtype), (module.scaling * module.outer).to(x.dtype))
        )
    bias = module._modules.get("bhpeft_bitfit")
    if isinstance(bias, BiasDelta) and bias.active:
        delta = bias.delta.to(x.dtype)
        ones = x.new_ones(1, 1, x.shape[1], 1)
        made = made.plus(Term(ones, delta.view(-1, delta.shape[-1], 1)))
    return made


def drawn_attention(key: Projected, value: Projected, heads: int) -> Callable[..., Attended]:
    """Return the attention of S · B queries to the tokens of B rows.

    Args:
        key: of every token.
        value: of every token.
        heads: key-value heads.
    """
    shared_key, shared_value = _heads(key.shared, heads), _heads(value.shared, heads)
    rows = len(key.shared)

    def attended(
        attend: Callable[..., Attended],
        module: nn.Module,
        query: Tensor,
        mask: Tensor | None,
        **options: Any,
    ) -> Attended:
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        q = (query * scaling).reshape(-1, rows, heads, query.shape[1] // heads, query.shape[-1])
        scores = torch.einsum("sbhgd,bthd->bshgt", q, shared_key)
        for term in key.terms:
            low = torch.einsum(
                "sbhgd,shdr->bshgr", q, _heads(term.up.mT, heads).permute(0, 2, 3, 1)
            )
            scores = scores + torch.einsum("bshgr,bstr->bshgt", low, term.low)
        if mask is not None:
            scores = _masked(scores, mask[:, :, :, None])
        prefix = module._modules.get("bhpeft_prefix")
        first = _prefix(prefix, "key", q)
        if first is not None:
            scores = torch.cat([torch.einsum("sbhgd,slhd->bshgl", q, first), scores], dim=-1)
        weights = scores.softmax(-1)
        if first is not None:
            own, weights = weights[..., : first.shape[1]], weights[..., first.shape[1] :]
        out = torch.einsum("bshgt,bthd->sbhgd", weights, shared_value)
        for term in value.terms:
            low = torch.einsum("bshgt,bstr->bshgr", weights, term.low)
            up = _heads(term.up.mT, heads)
            out = out + torch.einsum("bshgr,srhd->sbhgd", low, up)
        if first is not None:
            out = out + torch.einsum("bshgl,slhd->sbhgd", own, _prefix(prefix, "value", q))
        return out.reshape(len(query), 1, query.shape[1], -1), None

    return attended


def _low_rank(x: Tensor, a: Tensor, b: Tensor) -> Term:
    a, b = (weight if weight.ndim == 3 else weight[None] for weight in (a, b))
    low = F.linear(x, a.flatten(0, 1)).view(*x.shape[:2], *a.shape[:2])
    return Term(low.transpose(1, 2), b)


def _heads(x: Tensor, heads: int) -> Tensor:
    """Cut the last dimension into heads: (…, heads, head width)."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask


def _prefix(prefix: nn.Module | None, leaf: str, like: Tensor) -> Tensor | None:
    """Return a prefix's keys or values, (S or 1, length, heads, head width), if there is one."""
    if not isinstance(prefix, PrefixKeyValue) or not prefix.active:
        return None
    rows: Tensor = getattr(prefix, leaf)
    rows = rows if rows.ndim == 3 else rows[None]
    return _heads(rows, like.shape[2]).to(like.dtype)
