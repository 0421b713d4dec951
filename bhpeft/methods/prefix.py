"""Attach prefix-tuning: trainable keys and values that every token may attend to.

    attention(Q, [P_k; K], [P_v; V])        P_k, P_v (length, key-value heads × head width)

This goes through transformers' own seam (`bhpeft.methods.attention`). The prefix is put there after
rotary positions and after the cache, so it has no position and a cached `generate` sees it once at
each step.

The model holds the flat form only. With `projection` the first round is learned through the
re-parameterising network of Li & Liang, which makes these weights and is left behind
(`bhpeft.learning.projection`).

Source: Li & Liang 2021 (arXiv 2101.00190).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel

from bhpeft.methods.architectures import (
    Architecture,
    Layers,
    chosen_layers,
    layers_of,
)
from bhpeft.methods.attention import use_attention
from bhpeft.methods.sampled import rows_of
from bhpeft.methods.sites import Site
from bhpeft.methods.start import beside

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
        projection: inner width of the network through which the first round learns the prefix
            (Hugging Face's `prefix_projection` with `encoder_hidden_size`); 0 learns it flat.
    """

    length: int = 8
    layers: Layers = None
    projection: int = 0

    def attach(
        self, model: PreTrainedModel, architecture: Architecture, generator: Generator
    ) -> Iterator[Site]:
        """Give the chosen layers a prefix, and yield the sites of its keys and values.

        Raises:
            UnsupportedModel: the model computes attention on its own.
        """
        use_attention(model, architecture)
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
