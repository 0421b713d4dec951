"""Attach prefix-tuning: trainable keys and values that every token may attend to.

    attention(Q, [P_k; K], [P_v; V])        P_k, P_v (length, key-value heads × head width)

This goes through transformers' own seam. A model is told to use the attention called
`bhpeft_prefix`; that function puts the prefix before the keys and values, makes room for it in the
mask, and calls the stock `sdpa`. The prefix is put there after rotary positions and after the
cache, so it has no position and a cached `generate` sees it once at each step. A layer without a
prefix goes straight to `sdpa`, with the mask `sdpa` would have had.

Source: Li & Liang 2021 (arXiv 2101.00190), in the flat form without their re-parameterising MLP:
a posterior on that MLP would mean nothing once the rest of it moves (method notes §4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bhpeft.errors import UnsupportedModel
from bhpeft.methods.architectures import (
    Architecture,
    Layers,
    chosen_layers,
    layers_of,
)
from bhpeft.methods.sampled import rows_of
from bhpeft.methods.sites import Site
from bhpeft.methods.start import beside

ATTENTION = "bhpeft_prefix"

# Small against real keys and values, whose spread is about one: the prefix starts by taking some
# attention away and adding next to nothing. BERT's own initialiser range.
START_STD = 0.02


class PrefixKeyValue(nn.Module):
    """The prefix of one layer: keys and values, one row a prefix position, in float32."""

    def __init__(self, place: nn.Module, length: int, heads: int, width: int, seed: Generator):
        super().__init__()
        self.length, self.heads, self.width = length, heads, width
        self.active = True
        shape = (length, heads * width)
        self.key = beside(place, lambda: START_STD * torch.randn(shape, generator=seed))
        self.value = beside(place, lambda: START_STD * torch.randn(shape, generator=seed))

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the prefix before keys and values, each (rows, heads, tokens, head width)."""
        if not self.active:
            return key, value
        return self._before(key, self.key), self._before(value, self.value)

    def _before(self, real: Tensor, prefix: Tensor) -> Tensor:
        rows = real.shape[0]
        if prefix.ndim == 2:
            prefix = prefix.expand(rows, *prefix.shape)
        heads = rows_of(prefix, rows).reshape(rows, self.length, self.heads, self.width)
        return torch.cat([heads.transpose(1, 2).to(real.dtype), real], dim=2)


@dataclass(frozen=True)
class Prefix:
    """The prefix's settings.

    Attributes:
        length: prefix positions a layer.
        layers: None for all, n for the top n, or a tuple of indices.
    """

    length: int = 8
    layers: Layers = None

    def attach(
        self, model: PreTrainedModel, architecture: Architecture, generator: Generator
    ) -> Iterator[Site]:
        """Give the chosen layers a prefix, and yield the sites of its keys and values.

        Raises:
            UnsupportedModel: the model computes attention on its own.
        """
        _use_prefix_attention(model, architecture)
        heads, width = key_value_geometry(model)
        layers = layers_of(model, architecture)
        for index in chosen_layers(self.layers, len(layers)):
            attention = layers[index].get_submodule(str(architecture.attention))
            prefix = PrefixKeyValue(attention, self.length, heads, width, generator)
            attention.add_module("bhpeft_prefix", prefix)
            for leaf in ("key", "value"):
                name = f"{index}.attention.prefix.{leaf}"
                yield Site(name, f"prefix.{leaf}", prefix, leaf, heads * width, index)


def key_value_geometry(model: PreTrainedModel) -> tuple[int, int]:
    """Return (key-value heads, head width) of a model's attention."""
    config = model.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return getattr(config, "num_key_value_heads", None) or heads, width


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend with the module's prefix, if it has one, through the stock `sdpa`.

    Args:
        module: the attention module; its `bhpeft_prefix`, if any, holds the prefix.
        query: (rows, heads, queries, head width).
        key: (rows, key-value heads, tokens, head width).
        value: like the keys.
        attention_mask: (rows or 1, 1, queries, tokens), True or 0 where a query may look; None for
            everything, or for what is behind it where the module is causal.
        **options: handed on: scaling, dropout, is_causal, …
    """
    prefix = module._modules.get("bhpeft_prefix")
    tokens = key.shape[2]
    if prefix is not None:
        key, value = prefix(key, value)
    if added := key.shape[2] - tokens:
        if attention_mask is None and _is_causal(module, options) and query.shape[2] > 1:
            attention_mask = _behind(query.shape[2], tokens, query.device)
        if attention_mask is not None:
            visible = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = F.pad(attention_mask, (added, 0), value=visible)
    attended: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **options
    )
    return attended


def _is_causal(module: nn.Module, options: dict[str, Any]) -> bool:
    said = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if said is None else said)


def _behind(queries: int, tokens: int, device: torch.device) -> Tensor:
    """Return the causal mask `sdpa` was trusted to imply; it aligns queries with the first keys."""
    return torch.ones(queries, tokens, dtype=torch.bool, device=device).tril()[None, None]


def _use_prefix_attention(model: PreTrainedModel, architecture: Architecture) -> None:
    name = type(model).__name__
    if architecture.attention is None or not model._can_set_attn_implementation():
        raise UnsupportedModel(
            f"A prefix cannot be put before the keys of {name} ({model.config.model_type})",
            found="attention computed by the model itself",
            expected="a model on transformers' attention interface, such as bert, roberta or llama",
            remedy="Leave prefix out and use lora and adapter on this model.",
        )
    stock = model.config._attn_implementation
    if stock not in ("sdpa", ATTENTION):
        raise UnsupportedModel(
            f"A prefix needs the sdpa attention, but {name} was loaded with another",
            found=f"attn_implementation={stock!r}",
            expected="attn_implementation='sdpa'",
            remedy="Load the base model with sdpa, the default.",
        )
    AttentionInterface.register(ATTENTION, prefix_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
