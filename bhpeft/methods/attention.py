"""Put one attention function of ours into transformers' own seam.

A model is told to use the attention called `bhpeft_sdpa` or `bhpeft_explicit`. Both put a layer's
prefix, if it has one, before the keys and values and make room for it in the mask. The first then
calls the stock `sdpa`; the second computes the same where gradients are needed by
`bhpeft.methods.explicit_attention`, and calls `sdpa` everywhere else. A layer without a prefix gets
the mask `sdpa` would have had.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bhpeft.errors import UnsupportedModel
from bhpeft.methods.architectures import Architecture
from bhpeft.methods.explicit_attention import explicit_attention

# How training attends → under which name transformers knows it.
ATTENTIONS = {"sdpa": "bhpeft_sdpa", "explicit": "bhpeft_explicit"}

# Under this name a layer's options carry what stands in for its keys and values: a function
#   (attend, module, query, attention_mask, **options) → what `attend` returns
# of a query for some of the tokens, which knows the keys and values of all
# (`bhpeft.models.last_layer`). It goes through the layer as an option, so that a checkpointed layer
# gets it again when it is recomputed.
KEYS_AND_VALUES = "bhpeft_keys_and_values"

# Beyond it writing all weights down costs more than it saves, unless it was measured for a model
# (`bhpeft.models.pace`): in bfloat16 forward and backward, explicit ÷ sdpa was 0.17, 0.26, 0.43,
# 0.67 and 1.7 at 64, 128, 256, 512 and 1,024 tokens.
EXPLICIT_TOKENS = 512


def has_attention(model: PreTrainedModel, architecture: Architecture) -> bool:
    """Say whether the model calls transformers' attention interface, where ours can stand in."""
    return architecture.attention is not None and bool(model._can_set_attn_implementation())


def use_attention(
    model: PreTrainedModel,
    architecture: Architecture,
    attention: str | None = None,
    explicit_tokens: int | None = None,
) -> None:
    """Let the model attend through ours.

    Args:
        model: changed in place.
        architecture: where its attention is.
        attention: a key of `ATTENTIONS`; None leaves what was chosen before, else "sdpa".
        explicit_tokens: up to which length the explicit one is used; `EXPLICIT_TOKENS` by default.

    Raises:
        UnsupportedModel: the model computes attention on its own, or was loaded with another.
    """
    stock, name = model.config._attn_implementation, type(model).__name__
    if not has_attention(model, architecture):
        raise UnsupportedModel(
            f"Attention cannot be changed in {name} ({model.config.model_type})",
            found="attention computed by the model itself",
            expected="a model on transformers' attention interface, such as bert, roberta or llama",
            remedy="Leave prefix out and use lora and adapter on this model.",
        )
    if stock not in ("sdpa", *ATTENTIONS.values()):
        raise UnsupportedModel(
            f"Ours stands in for the sdpa attention, but {name} was loaded with another",
            found=f"attn_implementation={stock!r}",
            expected="attn_implementation='sdpa'",
            remedy="Load the base model with sdpa, the default.",
        )
    if attention is None and stock in ATTENTIONS.values():
        return
    chosen = attention or "sdpa"
    AttentionInterface.register(ATTENTIONS[chosen], partial(attend, chosen == "explicit"))
    AttentionMaskInterface.register(ATTENTIONS[chosen], unseen_mask)
    model.set_attn_implementation(ATTENTIONS[chosen])
    if explicit_tokens is not None:
        # Where every attention module looks things up.
        model.config.bhpeft_explicit_tokens = explicit_tokens


def unseen_mask(*sizes: Any, **options: Any) -> Tensor | None:
    """Return `sdpa_mask`'s, without looking at a device's numbers.

    It leaves the mask out where nothing is hidden. To find out is free on a CPU, and on a GPU makes
    the host wait for all that was asked of it before.
    """
    if torch.device(options.get("device", "cpu")).type != "cpu":
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(*sizes, **options)
    return mask


def attention_of(model: PreTrainedModel) -> str:
    """Return how the model attends in training: "explicit", or the stock's name."""
    stock: str = model.config._attn_implementation
    return next((ours for ours, name in ATTENTIONS.items() if name == stock), stock)


def explicit_tokens_of(model: PreTrainedModel) -> int:
    """Return how long rows the explicit attention takes in training; 0 where it takes none."""
    if attention_of(model) != "explicit":
        return 0
    return int(getattr(model.config, "bhpeft_explicit_tokens", EXPLICIT_TOKENS))


def attend(
    explicit: bool,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend with the module's prefix, if it has one.

    Args:
        explicit: whether to attend by `explicit_attention` where gradients are needed.
        module: the attention module; its `bhpeft_prefix`, if any, holds the prefix.
        query: (rows, heads, queries, head width).
        key: (rows, key-value heads, tokens, head width).
        value: like the keys.
        attention_mask: (rows or 1, 1, queries, tokens), True or 0 where a query may look; None for
            everything, or for what is behind it where the module is causal.
        **options: handed on: scaling, dropout, is_causal, …

    Returns:
        (rows, queries, heads, head width), and None for the attention weights.
    """
    known = options.pop(KEYS_AND_VALUES, None)
    if known is not None:
        return known(partial(attend, explicit), module, query, attention_mask, **options)
    prefix = module._modules.get("bhpeft_prefix")
    tokens = key.shape[2]
    if prefix is not None:
        key, value = prefix(key, value)
    added = key.shape[2] - tokens
    explicit = explicit and _gains(module, query, key, value, attention_mask, options)
    if (added or explicit) and attention_mask is None:
        attention_mask = _implied(module, query, tokens, options)
    if added and attention_mask is not None:
        visible = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = F.pad(attention_mask, (added, 0), value=visible)
    if explicit:
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        attended = explicit_attention(query, key, value, attention_mask, scaling)
        return attended.transpose(1, 2).contiguous(), None
    stock: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **options
    )
    return stock


def _gains(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
) -> bool:
    """Say whether there is a backward pass to save, and nothing the explicit form leaves out."""
    config = getattr(module, "config", None)
    longest = getattr(config, "bhpeft_explicit_tokens", EXPLICIT_TOKENS)
    needed = query.requires_grad or key.requires_grad or value.requires_grad
    return (
        needed
        and torch.is_grad_enabled()
        and key.shape[2] <= longest
        and (mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1))
        and not options.get("dropout")
        and options.get("position_bias") is None
    )


def _implied(
    module: nn.Module, query: Tensor, tokens: int, options: dict[str, Any]
) -> Tensor | None:
    """Return the causal mask `sdpa` was trusted to imply; it aligns queries with the first keys."""
    said = options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if said is None else said)
    if not causal or query.shape[2] == 1:
        return None
    shape = (query.shape[2], tokens)
    return torch.ones(shape, dtype=torch.bool, device=query.device).tril()[None, None]
