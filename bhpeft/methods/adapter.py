"""Attach the scaled parallel adapter: a small trainable map beside each feed-forward block.

    h = FFN(x) + s · U relu(D x)        D (bottleneck, d), U (d, bottleneck), U = 0 at the start

before the residual connection and its LayerNorm. Where a model has no feed-forward module of its
own (BERT: the block ends in LayerNorm(W h + x)), the same sum is reached by adding the adapter's
output to the residual input of that last module: W h + (x + s·U relu(D x)).

Source: He et al. 2021 (arXiv 2110.04366), §3 and table 4 (s = 4); BH-PEFT (arXiv 2508.02711) uses
a bottleneck of 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel

from bhpeft.errors import UnsupportedModel
from bhpeft.methods.architectures import (
    Architecture,
    Layers,
    chosen_layers,
    layers_of,
)
from bhpeft.methods.parameterisation import Names, Sizes, factor_sites, place_factors
from bhpeft.methods.sampled import sampled_linear
from bhpeft.methods.sites import Site

NAMES = Names(down="down", up="up")


class Bottleneck(nn.Module):
    """The adapter's own map x ↦ s · U relu(D x), computed in the dtype of x."""

    down: Tensor
    up: Tensor
    core: Tensor | None

    def __init__(self, place: nn.Module, width: int, settings: ParallelAdapter, seed: Generator):
        super().__init__()
        self.scale = settings.scale
        self.active = True
        self.sizes = Sizes(width, settings.bottleneck, width)
        place_factors(self, place, NAMES, self.sizes, settings.parameterisation, seed)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (rows, …, d) to what is added to the feed-forward block's output."""
        low = torch.relu(sampled_linear(x, self.down.to(x.dtype)))
        if self.core is not None:
            low = sampled_linear(low, self.core.to(x.dtype))
        return sampled_linear(low, (self.scale * self.up).to(x.dtype))


@dataclass(frozen=True)
class ParallelAdapter:
    """The adapter's settings.

    Attributes:
        bottleneck: its inner width.
        scale: s, a constant factor on what it adds.
        layers: None for all, n for the top n, or a tuple of indices.
        parameterisation: which factors are learned, a key of `PARAMETERISATIONS`.
    """

    bottleneck: int = 8
    scale: float = 4.0
    layers: Layers = None
    parameterisation: str = "blob"

    def attach(
        self, model: PreTrainedModel, architecture: Architecture, generator: Generator
    ) -> Iterator[Site]:
        """Hook the adapter to each feed-forward block, and yield the sites of D and U.

        Raises:
            UnsupportedModel: the architecture names no feed-forward block.
        """
        layers = layers_of(model, architecture)
        width = model.config.hidden_size
        for index in chosen_layers(self.layers, len(layers)):
            adapter = Bottleneck(layers[index], width, self, generator)
            layers[index].add_module("bhpeft_adapter", adapter)
            _hook(layers[index], architecture, adapter)
            name = f"{index}.ffn.adapter"
            yield from factor_sites(adapter, name, "adapter", NAMES, adapter.sizes, index)


def _hook(layer: nn.Module, architecture: Architecture, adapter: Bottleneck) -> None:
    if architecture.feed_forward is not None:
        block = layer.get_submodule(architecture.feed_forward)
        block.register_forward_hook(_adding_to_output(adapter))
    elif architecture.feed_forward_output is not None:
        output = layer.get_submodule(architecture.feed_forward_output)
        output.register_forward_pre_hook(_adding_to_residual(adapter))
    else:
        raise UnsupportedModel(
            f"An adapter has no feed-forward block to sit beside in a {type(layer).__name__}",
            expected="an Architecture with `feed_forward` or `feed_forward_output`",
            remedy="Name the block in ARCHITECTURES, or use lora or prefix.",
        )


def _adding_to_output(adapter: Bottleneck) -> Any:
    def hook(block: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return output + adapter(args[0]) if adapter.active else None

    return hook


def _adding_to_residual(adapter: Bottleneck) -> Any:
    def hook(output: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        inner, x = args
        return (inner, x + adapter(x)) if adapter.active else None

    return hook
